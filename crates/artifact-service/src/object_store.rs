//! Every word with the object store. Each call has an end: 12 s, with the SDK's retries in them, 40 s for a pack of logs, and two minutes where
//! the store puts parts together.

use crate::{
    Times,
    keys::Keys,
    presign::{Public, Signers},
};
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        SharedHttpClient, retry::RetryConfig, timeout::TimeoutConfig,
    },
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart},
};
use aws_smithy_http_client::tls;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use domain::artifact::{ArtifactKind, Sha256Digest, least_part};
use std::{sync::Arc, time::Duration};
use store::{CommonPart, Part};
use trust::Trust;

/// Keys of artifacts begin so.
pub(crate) const PREFIX: &str = "objects/";
/// Keys of packs of logs. Not below the other, so that a check of an earlier version, which knows of no packs, does not find them.
pub(crate) const LOGS: &str = "logs/";

/// How a store is reached, by whom.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    pub(crate) region: String,
    pub(crate) keys: Keys,
    pub(crate) path_style: bool,
    pub(crate) trust: Trust,
    /// Parts of an upload must be of one size.
    pub(crate) equal_parts: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ObjectStoreError {
    /// It does not answer, or says that it can't now: the same call may succeed later.
    #[error("the object store is away: {0}")]
    Away(String),
    /// It answers, and does not do it: its settings are wrong, most likely.
    #[error("the object store refuses: {0}")]
    Refused(String),
}

/// What became of the wish to put parts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Done,
    /// There is no such upload: it was put together before, or given up.
    NoSuchUpload,
    /// The store does not have the parts that it was said to have.
    PartsDiffer,
}

pub(crate) struct StoredKey {
    pub(crate) key: String,
    /// Unix time in seconds, by the store's clock.
    pub(crate) modified_at: i64,
}

pub(crate) struct BegunUpload {
    pub(crate) key: String,
    pub(crate) upload_id: String,
    /// Unix time in seconds, by the store's clock.
    pub(crate) begun_at: i64,
}

/// A handle to the object store: cheap to clone.
#[derive(Clone)]
pub struct ObjectStore(Arc<Inner>);

struct Inner {
    client: Client,
    bucket: String,
    signers: Signers,
    equal_parts: bool,
}

impl ObjectStore {
    pub(crate) fn new(place: Place, public: Public, times: Times) -> Self {
        let client = client(&place, &place.endpoint);
        let (bucket, equal_parts) = (place.bucket.clone(), place.equal_parts);
        Self(Arc::new(Inner { client, bucket, signers: Signers::new(place, public, times.address), equal_parts }))
    }

    pub(crate) fn signers(&self) -> &Signers {
        &self.0.signers
    }

    /// Makes the bucket if it is not there.
    pub async fn ensure_bucket(&self) -> Result<(), ObjectStoreError> {
        match self.0.client.head_bucket().bucket(&self.0.bucket).send().await {
            Ok(_) => return Ok(()),
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(failed("looking for the bucket", error)),
        }
        match self.0.client.create_bucket().bucket(&self.0.bucket).send().await {
            Err(error) if !matches!(error.code(), Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists")) => {
                Err(failed("making the bucket", error))
            }
            _ => Ok(()),
        }
    }

    /// Begins a multipart upload.
    pub(crate) async fn begin(&self, key: &str) -> Result<String, ObjectStoreError> {
        let begun = self.0.client.create_multipart_upload().bucket(&self.0.bucket).key(key);
        // Each part is sent with its checksum; a store wants to know that beforehand.
        let begun =
            begun.checksum_algorithm(ChecksumAlgorithm::Sha256).content_type("application/octet-stream").send().await;
        let begun = begun.map_err(|error| failed("beginning an upload", error))?;
        begun.upload_id.ok_or_else(|| ObjectStoreError::Refused("it began an upload and did not say which".to_owned()))
    }

    /// The least bytes of a part of such an upload. None: this store, or this upload, wants them equal.
    pub(crate) fn least_part(&self, kind: ArtifactKind, size: Option<u64>) -> Option<u64> {
        least_part(kind, size).filter(|_| !self.0.equal_parts)
    }

    /// Makes a part of an upload of bytes that another object has: its `ETag`. Errors also where the store tells of another checksum than theirs.
    pub(crate) async fn copy_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        from: &CommonPart,
    ) -> Result<String, ObjectStoreError> {
        let copied = self.0.client.upload_part_copy().bucket(&self.0.bucket).key(key).upload_id(upload_id);
        let copied = copied
            .part_number(number as i32)
            .copy_source(format!("{}/{}", self.0.bucket, from.key))
            .copy_source_range(format!("bytes={}-{}", from.offset, from.offset + from.size.max(1) - 1))
            .send()
            .await
            .map_err(|error| failed("copying a part", error))?;
        let (etag, sum) = copied.copy_part_result.map_or((None, None), |copy| (copy.e_tag, copy.checksum_sha256));
        if sum.is_some_and(|sum| sum != base64(&from.sha256)) {
            return Err(ObjectStoreError::Refused("the bytes of a copied part are not those that were put".to_owned()));
        }
        etag.ok_or_else(|| ObjectStoreError::Refused("it copied a part and gave no ETag for it".to_owned()))
    }

    /// Puts the parts together. Safe to repeat: then there is no such upload any more, and the object is there.
    pub(crate) async fn finish(&self, key: &str, upload_id: &str, parts: &[Part]) -> Result<Finish, ObjectStoreError> {
        let parts = parts.iter().map(|part| {
            CompletedPart::builder()
                .part_number(part.number as i32)
                .set_e_tag(part.etag.clone())
                .checksum_sha256(base64(&part.sha256))
                .build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        // A large object takes a store its time.
        let patient = TimeoutConfig::builder()
            .connect_timeout(CONNECT_WITHIN)
            .operation_attempt_timeout(FINISH_WITHIN)
            .operation_timeout(FINISH_WITHIN)
            .build();
        let finished = self.0.client.complete_multipart_upload().bucket(&self.0.bucket).key(key).upload_id(upload_id);
        let finished = finished
            .multipart_upload(parts)
            .customize()
            .config_override(aws_sdk_s3::config::Builder::new().timeout_config(patient))
            .send()
            .await;
        match finished {
            Ok(_) => Ok(Finish::Done),
            Err(error) => match error.code() {
                Some("NoSuchUpload") => Ok(Finish::NoSuchUpload),
                Some("InvalidPart" | "InvalidPartOrder" | "EntityTooSmall" | "BadDigest") => Ok(Finish::PartsDiffer),
                _ => Err(failed("putting parts together", error)),
            },
        }
    }

    /// Bytes of an object. None: it is not there.
    pub(crate) async fn size(&self, key: &str) -> Result<Option<u64>, ObjectStoreError> {
        match self.0.client.head_object().bucket(&self.0.bucket).key(key).send().await {
            Ok(object) => Ok(Some(object.content_length().unwrap_or_default().unsigned_abs())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed("looking at an object", error)),
        }
    }

    /// Gives an upload up. One that is over is no error.
    pub(crate) async fn abort(&self, key: &str, upload_id: &str) -> Result<(), ObjectStoreError> {
        match self.0.client.abort_multipart_upload().bucket(&self.0.bucket).key(key).upload_id(upload_id).send().await {
            Err(error) if error.code() != Some("NoSuchUpload") && !is_missing(&error) => {
                Err(failed("giving up an upload", error))
            }
            _ => Ok(()),
        }
    }

    /// Deletes an object. One that is not there is no error.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), ObjectStoreError> {
        match self.0.client.delete_object().bucket(&self.0.bucket).key(key).send().await {
            Err(error) if !is_missing(&error) => Err(failed("deleting an object", error)),
            _ => Ok(()),
        }
    }

    /// The next keys after this one that begin so, at most a thousand, and whether there are more.
    pub(crate) async fn keys_after(
        &self,
        prefix: &str,
        after: &str,
    ) -> Result<(Vec<StoredKey>, bool), ObjectStoreError> {
        let listed = self.0.client.list_objects_v2().bucket(&self.0.bucket).prefix(prefix);
        let listed = if after.is_empty() { listed } else { listed.start_after(after) };
        let listed = listed.send().await.map_err(|error| failed("listing objects", error))?;
        let is_more = listed.is_truncated().unwrap_or(false);
        let keys = listed.contents.unwrap_or_default().into_iter().filter_map(|object| {
            Some(StoredKey { key: object.key?, modified_at: object.last_modified.map_or(i64::MAX, |at| at.secs()) })
        });
        Ok((keys.collect(), is_more))
    }

    /// Multipart uploads that go on, at most a thousand.
    pub(crate) async fn begun_uploads(&self) -> Result<Vec<BegunUpload>, ObjectStoreError> {
        let listed = self.0.client.list_multipart_uploads().bucket(&self.0.bucket).prefix(PREFIX).send().await;
        let listed = listed.map_err(|error| failed("listing uploads", error))?;
        let uploads = listed.uploads.unwrap_or_default().into_iter().filter_map(|upload| {
            Some(BegunUpload {
                key: upload.key?,
                upload_id: upload.upload_id?,
                begun_at: upload.initiated.map_or(i64::MAX, |at| at.secs()),
            })
        });
        Ok(uploads.collect())
    }

    /// Puts an object of some megabytes. Its checksum is part of what is signed, so the store takes these bytes or none.
    pub(crate) async fn put(&self, key: &str, bytes: Bytes, sha256: &Sha256Digest) -> Result<(), ObjectStoreError> {
        let patient = TimeoutConfig::builder()
            .connect_timeout(CONNECT_WITHIN)
            .operation_attempt_timeout(PUT_WITHIN)
            .operation_timeout(PUT_WITHIN)
            .build();
        let put = self.0.client.put_object().bucket(&self.0.bucket).key(key).content_type("application/octet-stream");
        put.content_length(bytes.len() as i64)
            .checksum_sha256(base64(sha256))
            .body(ByteStream::from(bytes))
            .customize()
            .config_override(aws_sdk_s3::config::Builder::new().timeout_config(patient))
            .send()
            .await
            .map_err(|error| failed("putting an object", error))?;
        Ok(())
    }

    /// Some bytes of an object, all at once: fewer than `length` if it ends before. None: it is not there, or ends before the first.
    pub(crate) async fn read_range(&self, key: &str, at: u64, length: u64) -> Result<Option<Bytes>, ObjectStoreError> {
        let range = format!("bytes={at}-{}", at + length.max(1) - 1);
        let got = match self.0.client.get_object().bucket(&self.0.bucket).key(key).range(range).send().await {
            Ok(got) => got,
            Err(error) if is_missing(&error) || error.code() == Some("InvalidRange") => return Ok(None),
            Err(error) => return Err(failed("reading a part of an object", error)),
        };
        // A store that does not know ranges would send all of it.
        if got.content_length().is_some_and(|sent| sent.unsigned_abs() > length) {
            return Err(ObjectStoreError::Refused("it gives no parts of objects".to_owned()));
        }
        let mut bytes = BytesMut::with_capacity(length as usize);
        let mut body = got.body;
        while let Some(some) = body.next().await {
            bytes.extend_from_slice(
                &some.map_err(|error| ObjectStoreError::Away(format!("reading an object: {error}")))?,
            );
            if bytes.len() as u64 > length {
                return Err(ObjectStoreError::Refused("it sends more than was asked for".to_owned()));
            }
        }
        Ok(Some(bytes.freeze()))
    }

    /// All bytes of an object, as they come. None: it is not there.
    pub(crate) async fn read(&self, key: &str) -> Result<Option<ByteStream>, ObjectStoreError> {
        match self.0.client.get_object().bucket(&self.0.bucket).key(key).send().await {
            Ok(object) => Ok(Some(object.body)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed("reading an object", error)),
        }
    }
}

const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const TRY_WITHIN: Duration = Duration::from_secs(6);
/// Less than an answer of the API may take to begin.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);
const FINISH_WITHIN: Duration = Duration::from_secs(110);
/// Some megabytes on a slow line, within what a pass of a loop may take.
const PUT_WITHIN: Duration = Duration::from_secs(40);

/// How the SDK speaks with whoever it is.
pub(crate) fn http(trust: &Trust) -> SharedHttpClient {
    let mut trusted = tls::TrustStore::default();
    if let Some(pem) = trust.pem() {
        trusted = trusted.with_pem_certificate(pem);
    }
    let tls = tls::TlsContext::builder().with_trust_store(trusted).build().unwrap_or_default();
    aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
        .tls_context(tls)
        .build_https()
}

/// A client of the store at this endpoint.
pub(crate) fn client(place: &Place, endpoint: &str) -> Client {
    let times = TimeoutConfig::builder()
        .connect_timeout(CONNECT_WITHIN)
        .operation_attempt_timeout(TRY_WITHIN)
        .operation_timeout(ANSWER_WITHIN)
        .build();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(place.region.clone()))
        .endpoint_url(endpoint)
        .force_path_style(place.path_style)
        .credentials_provider(place.keys.clone())
        // The keys know themselves when they are to be renewed, and who signs has to know what signs.
        .identity_cache(IdentityCache::no_cache())
        .retry_config(RetryConfig::standard().with_max_attempts(3))
        .timeout_config(times)
        // What is sent with a checksum is sent with ours; the SDK's own would be in what is signed for others.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .http_client(http(&place.trust))
        .interceptor(crate::figures::Timed)
        .build();
    Client::from_conf(config)
}

pub(crate) fn base64(digest: &Sha256Digest) -> String {
    BASE64_STANDARD.encode(digest.0)
}

type Answer = aws_sdk_s3::config::http::HttpResponse;

fn is_missing<E: ProvideErrorMetadata>(error: &SdkError<E, Answer>) -> bool {
    matches!(error.code(), Some("NoSuchKey" | "NotFound" | "NoSuchBucket"))
        || error.raw_response().is_some_and(|answer| answer.status().as_u16() == 404)
}

fn failed<E>(doing: &str, error: SdkError<E, Answer>) -> ObjectStoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    // It may come back by itself from anything but this.
    if let Some(why) = trust::refusal(&error, "UNIDESK_S3_CA_FILE") {
        return ObjectStoreError::Refused(format!("{doing}: {why}"));
    }
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    let said = match (error.code(), error.message()) {
        (Some(code), message) => format!("{doing}: {code} {}", message.unwrap_or_default()),
        // What never got an answer has its reason in its causes.
        (None, _) => format!("{doing}: {}", DisplayErrorContext(&error)).chars().take(500).collect(),
    };
    match status {
        // A refusal that is about the request: settings, most likely. 429 is "not so fast".
        Some(status) if (400..500).contains(&status) && status != 429 => ObjectStoreError::Refused(said),
        _ => ObjectStoreError::Away(said),
    }
}

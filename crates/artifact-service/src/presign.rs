//! Addresses that let their holder do one thing, for a while: one method on one key, with the size and the checksum that were announced.

use crate::{
    ObjectStoreError,
    object_store::{ObjectStore, Place, base64, client},
};
use api_types::artifact::SignedRequest;
use aws_sdk_s3::{
    Client,
    error::DisplayErrorContext,
    presigning::{PresignedRequest, PresigningConfig},
};
use axum::http::{HeaderMap, header, uri::Authority};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use store::Part;

/// Where people and nodes reach the store.
#[derive(Clone, Debug)]
pub(crate) enum Public {
    At(String),
    /// At the listener that they asked, by whatever name they know it: that of `unidesk up`.
    WhereAsked,
}

/// Hosts that are remembered: this listener has a few names, and each has a client of its own.
const HOSTS_REMEMBERED: usize = 64;

pub(crate) struct Signers {
    place: Place,
    public: Public,
    lifetime: Duration,
    clients: Mutex<HashMap<String, Client>>,
}

/// Signs for one host.
pub(crate) struct Signer<'a> {
    client: Client,
    place: &'a Place,
    lifetime: Duration,
}

impl Signers {
    pub(crate) fn new(place: Place, public: Public, lifetime: Duration) -> Self {
        Self { place, public, lifetime, clients: Mutex::default() }
    }

    fn endpoint(&self, asked: &HeaderMap) -> String {
        match &self.public {
            Public::At(endpoint) => endpoint.clone(),
            Public::WhereAsked => {
                let host = asked.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
                let text = |name: &str| asked.get(name).and_then(|value| value.to_str().ok());
                // Behind a proxy that speaks TLS the address begins as its own does.
                let scheme = if text("x-forwarded-proto") == Some("https") { "https" } else { "http" };
                match host {
                    Some(host) if !host.as_str().contains('@') => format!("{scheme}://{host}"),
                    _ => self.place.endpoint.clone(),
                }
            }
        }
    }

    fn client(&self, endpoint: String) -> Client {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= HOSTS_REMEMBERED {
            clients.clear();
        }
        clients.entry(endpoint.clone()).or_insert_with(|| client(&self.place, &endpoint)).clone()
    }
}

impl ObjectStore {
    /// Signs for whoever asked with these headers.
    pub(crate) fn signer(&self, asked: &HeaderMap) -> Signer<'_> {
        let signers = self.signers();
        let client = signers.client(signers.endpoint(asked));
        Signer { client, place: &signers.place, lifetime: signers.lifetime }
    }
}

impl Signer<'_> {
    /// To put a part of a multipart upload, or, without one, the whole object.
    pub(crate) async fn put(
        &self,
        key: &str,
        upload_id: Option<&str>,
        part: &Part,
    ) -> Result<SignedRequest, ObjectStoreError> {
        // Some clients send no length with an empty body, and its checksum says it all.
        let lifetime = self.lifetime().await?;
        let (size, sha256) = ((part.size > 0).then_some(part.size as i64), base64(&part.sha256));
        let signed = match upload_id {
            Some(upload_id) => self
                .client
                .upload_part()
                .bucket(&self.place.bucket)
                .key(key)
                .upload_id(upload_id)
                .part_number(part.number as i32)
                .set_content_length(size)
                .checksum_sha256(sha256)
                .presigned(within(lifetime)?)
                .await
                .map_err(not_signed)?,
            None => self
                .client
                .put_object()
                .bucket(&self.place.bucket)
                .key(key)
                .set_content_length(size)
                .checksum_sha256(sha256)
                .presigned(within(lifetime)?)
                .await
                .map_err(not_signed)?,
        };
        Ok(told(&signed, lifetime))
    }

    /// To get an object, whole or by ranges. A browser saves it under this name and never shows it: what is in it is nobody's business here.
    pub(crate) async fn get(&self, key: &str, file_name: &str) -> Result<SignedRequest, ObjectStoreError> {
        let lifetime = self.lifetime().await?;
        let signed = self
            .client
            .get_object()
            .bucket(&self.place.bucket)
            .key(key)
            .response_content_disposition(attachment(file_name))
            .response_content_type("application/octet-stream")
            .presigned(within(lifetime)?)
            .await
            .map_err(not_signed)?;
        Ok(told(&signed, lifetime))
    }

    /// An address ends with the keys that signed it, if not before.
    async fn lifetime(&self) -> Result<Duration, ObjectStoreError> {
        let lifetime = self.place.keys.holds_for(self.lifetime).await;
        let lifetime = lifetime.map_err(|error| not_signed(DisplayErrorContext(error)))?;
        if lifetime.is_zero() {
            return Err(ObjectStoreError::Away("its credentials have ended, and there are no others yet".to_owned()));
        }
        Ok(lifetime)
    }
}

fn within(lifetime: Duration) -> Result<PresigningConfig, ObjectStoreError> {
    PresigningConfig::expires_in(lifetime).map_err(not_signed)
}

fn told(signed: &PresignedRequest, lifetime: Duration) -> SignedRequest {
    SignedRequest {
        method: signed.method().to_owned(),
        url: signed.uri().to_owned(),
        headers: signed.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        expires_at: chrono::Utc::now() + lifetime,
    }
}

fn not_signed(error: impl std::fmt::Display) -> ObjectStoreError {
    ObjectStoreError::Refused(format!("an address could not be signed: {error}"))
}

/// `attachment` with a name in both forms that browsers read; nothing of the name can end it.
fn attachment(file_name: &str) -> String {
    let plain: String = file_name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ' ') { c } else { '_' })
        .collect();
    let encoded: String = file_name
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use super::{Public, attachment};
    use crate::{ObjectStore, Times, keys::Keys, object_store::Place};
    use axum::http::HeaderMap;

    #[tokio::test]
    async fn a_bucket_is_in_the_name_of_the_host_where_it_can_be() {
        for (endpoint, bucket, path_style, begins) in [
            ("https://s3.example.org", "ours", true, "https://s3.example.org/ours/objects/x?"),
            ("https://s3.example.org:8333", "ours", false, "https://ours.s3.example.org:8333/objects/x?"),
            ("http://s3.example.org", "our.own", false, "http://our.own.s3.example.org/objects/x?"),
            // The certificate is for names of one level: *.s3.example.org.
            ("https://s3.example.org", "our.own", false, "https://s3.example.org/our.own/objects/x?"),
            ("https://192.0.2.1", "ours", false, "https://192.0.2.1/ours/objects/x?"),
        ] {
            let place = Place {
                endpoint: "https://inside.example.org".to_owned(),
                bucket: bucket.to_owned(),
                region: "us-east-1".to_owned(),
                keys: Keys::set("id", "secret", None),
                equal_parts: false,
                path_style,
                trust: trust::Trust::default(),
            };
            let objects = ObjectStore::new(place, Public::At(endpoint.to_owned()), Times::default());
            let signed = objects.signer(&HeaderMap::new()).get("objects/x", "x").await.expect("signed");
            assert!(signed.url.starts_with(begins), "{}", signed.url);
        }
    }

    #[test]
    fn no_name_of_a_file_gets_out_of_its_quotes() {
        for (name, says) in [
            ("model.pt", "attachment; filename=\"model.pt\"; filename*=UTF-8''model.pt"),
            ("a \"b\".html", "attachment; filename=\"a _b_.html\"; filename*=UTF-8''a%20%22b%22.html"),
            ("é\r\nX: 1", "attachment; filename=\"___X_ 1\"; filename*=UTF-8''%C3%A9%0D%0AX%3A%201"),
            ("><img onerror>", "attachment; filename=\"__img onerror_\"; filename*=UTF-8''%3E%3Cimg%20onerror%3E"),
        ] {
            assert_eq!(attachment(name), says);
        }
    }
}

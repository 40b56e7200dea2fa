//! S3's words for what the disk does: those that we use, and no others.

use super::disk::{Disk, DiskError, Key, Piece, Received, Shelf, etag};
use crate::object_store::{LOGS, PREFIX, base64};
use bytes::Bytes;
use domain::artifact::Sha256Digest;
use futures::{Stream, StreamExt as _, stream};
use s3s::{
    S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, StdError,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CopyPartResult, CopySource, CreateMultipartUploadInput,
        CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, ETag, GetObjectInput, GetObjectOutput,
        HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListMultipartUploadsInput,
        ListMultipartUploadsOutput, ListObjectsV2Input, ListObjectsV2Output, MultipartUpload, Object, PutObjectInput,
        PutObjectOutput, StreamingBlob, Timestamp, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput,
        UploadPartOutput,
    },
    s3_error,
};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{self, Write as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::task::{JoinHandle, spawn_blocking};
use uuid::Uuid;

/// Written and hashed at once.
const WRITE_AT_ONCE: usize = 1 << 20;
const READ_AT_ONCE: u64 = 256 << 10;
/// A sender that sends nothing for so long has gone.
const NEXT_BYTE_WITHIN: Duration = Duration::from_secs(60);
const LISTED_AT_ONCE: usize = 1_000;

pub(super) struct Objects {
    disk: Arc<Disk>,
    bucket: &'static str,
}

impl Objects {
    pub(super) fn new(disk: Arc<Disk>, bucket: &'static str) -> Self {
        Self { disk, bucket }
    }

    fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        if bucket == self.bucket { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    /// Nothing of a key becomes a part of a path but the UUID in it.
    fn key(&self, bucket: &str, key: &str) -> S3Result<Key> {
        self.check_bucket(bucket)?;
        let id = |prefix| key.strip_prefix(prefix).filter(|id| id.len() == 36).and_then(|id| Uuid::try_parse(id).ok());
        let key = |shelf| move |id| Key { shelf, id };
        let found = id(PREFIX).map(key(Shelf::Objects)).or_else(|| id(LOGS).map(key(Shelf::Logs)));
        found.ok_or_else(|| s3_error!(InvalidArgument, "keys are objects/ or logs/, and a UUID"))
    }

    /// Of what comes in parts, which packs of logs never do.
    fn key_of_parts(&self, bucket: &str, key: &str) -> S3Result<Uuid> {
        match self.key(bucket, key)? {
            Key { shelf: Shelf::Objects, id } => Ok(id),
            Key { shelf: Shelf::Logs, .. } => Err(s3_error!(InvalidArgument, "only objects/ come in parts")),
        }
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> Result<T, DiskError> + Send + 'static,
    ) -> S3Result<T> {
        let disk = self.disk.clone();
        spawn_blocking(move || work(&disk)).await.map_err(|error| s3_error!(error, InternalError))?.map_err(failed)
    }

    /// Takes a body to a file, synced, and compares its checksum.
    async fn receive(
        &self,
        body: Option<StreamingBlob>,
        size: Option<i64>,
        sha256: Option<&str>,
    ) -> S3Result<Received> {
        let (file, path) = self.on_disk(|disk| Ok(disk.fresh()?)).await?;
        let mut received = Received { path, size: 0, sha256: Sha256Digest([0; 32]) };
        let mut writer = Writer::new(file);
        if let Some(mut body) = body {
            loop {
                let next = tokio::time::timeout(NEXT_BYTE_WITHIN, body.next()).await;
                let next = next.map_err(|_| s3_error!(RequestTimeout, "no byte has come for a minute"))?;
                let Some(bytes) = next else { break };
                let bytes =
                    bytes.map_err(|error: StdError| S3Error::with_source(S3ErrorCode::IncompleteBody, error))?;
                received.size += bytes.len() as u64;
                writer.write(&bytes).await.map_err(|error| failed(error.into()))?;
            }
        }
        let (file, hasher) = writer.end().await.map_err(|error| failed(error.into()))?;
        received.sha256 = Sha256Digest(hasher.finalize().into());
        if size.is_some_and(|size| size.unsigned_abs() != received.size) {
            return Err(s3_error!(IncompleteBody));
        }
        if sha256.is_some_and(|sha256| sha256 != base64(&received.sha256)) {
            return Err(s3_error!(BadDigest, "the body has another SHA-256"));
        }
        spawn_blocking(move || file.sync_all())
            .await
            .map_err(|error| s3_error!(error, InternalError))?
            .map_err(|error| failed(error.into()))?;
        Ok(received)
    }
}

/// Hashes and writes what has come while more comes.
struct Writer {
    gathered: Vec<u8>,
    running: Option<JoinHandle<io::Result<(File, Sha256)>>>,
    idle: Option<(File, Sha256)>,
}

impl Writer {
    fn new(file: File) -> Self {
        Self { gathered: Vec::new(), running: None, idle: Some((file, Sha256::new())) }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() < WRITE_AT_ONCE { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let (mut file, mut hasher) = self.settled().await?;
        let bytes = std::mem::replace(&mut self.gathered, Vec::with_capacity(WRITE_AT_ONCE));
        self.running = Some(spawn_blocking(move || {
            hasher.update(&bytes);
            file.write_all(&bytes)?;
            Ok((file, hasher))
        }));
        Ok(())
    }

    async fn settled(&mut self) -> io::Result<(File, Sha256)> {
        if let Some(running) = self.running.take() {
            return running.await.map_err(io::Error::other)?;
        }
        self.idle.take().ok_or_else(|| io::Error::other("a write failed before"))
    }

    async fn end(mut self) -> io::Result<(File, Sha256)> {
        if !self.gathered.is_empty() {
            self.flush().await?;
        }
        self.settled().await
    }
}

/// The bytes of some parts, from `start` on, `length` of them.
fn read(pieces: Vec<Piece>, start: u64, length: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static {
    let mut begins = 0;
    let mut stretches: Vec<(PathBuf, u64, u64)> = Vec::new();
    for piece in pieces {
        let ends = begins + piece.size;
        let (from, to) = (start.max(begins), (start + length).min(ends));
        if from < to {
            stretches.push((piece.path, from - begins, to - begins));
        }
        begins = ends;
    }
    stretches.reverse();
    stream::try_unfold((stretches, None::<(File, u64, u64)>), |(mut stretches, open)| async move {
        let step = spawn_blocking(move || {
            let (file, from, to) = match (open, stretches.pop()) {
                (Some(open), next) => {
                    stretches.extend(next);
                    open
                }
                (None, Some((path, from, to))) => (File::open(path)?, from, to),
                (None, None) => return Ok(None),
            };
            let mut bytes = vec![0; (to - from).min(READ_AT_ONCE) as usize];
            file.read_exact_at(&mut bytes, from)?;
            let from = from + bytes.len() as u64;
            Ok(Some((Bytes::from(bytes), (stretches, (from < to).then_some((file, from, to))))))
        });
        step.await.map_err(io::Error::other)?
    })
}

fn failed(error: DiskError) -> S3Error {
    match error {
        DiskError::NoSuchUpload => s3_error!(NoSuchUpload),
        DiskError::NoSuchObject => s3_error!(NoSuchKey),
        DiskError::PartsDiffer => s3_error!(InvalidPart, "these are not the parts that are here"),
        DiskError::WrittenBefore => s3_error!(PreconditionFailed, "an object is written once"),
        DiskError::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
            tracing::error!("the disk of the object store is full; make room there");
            let mut full = S3Error::with_message(
                S3ErrorCode::Custom("StorageFull".into()),
                "the disk of the object store is full",
            );
            full.set_status_code(axum::http::StatusCode::INSUFFICIENT_STORAGE);
            full
        }
        DiskError::Io(error) => {
            tracing::error!(%error, "the object store failed");
            S3Error::with_source(S3ErrorCode::InternalError, Box::new(error))
        }
    }
}

fn strong(etag: String) -> Option<ETag> {
    Some(ETag::Strong(etag))
}

fn part_number(number: i32) -> S3Result<u32> {
    let number = u32::try_from(number).ok().filter(|number| (1..=domain::artifact::MOST_PARTS).contains(number));
    number.ok_or_else(|| s3_error!(InvalidArgument, "parts are numbered from 1 to 10000"))
}

/// `bytes=0-99`.
fn read_range(text: &str) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?;
    (!range.is_empty()).then_some(range)
}

fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.size).sum()
}

#[async_trait::async_trait]
impl S3 for Objects {
    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.check_bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = request.input;
        let key = self.key(&input.bucket, &input.key)?;
        let received = self.receive(input.body, input.content_length, input.checksum_sha256.as_deref()).await?;
        let sha256 = received.sha256;
        self.on_disk(move |disk| disk.put(key, &received)).await?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: strong(sha256.to_string()),
            checksum_sha256: Some(base64(&sha256)),
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        let key = self.key_of_parts(&input.bucket, &input.key)?;
        let upload = self.on_disk(move |disk| Ok(disk.begin(key)?)).await?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(upload),
            ..Default::default()
        }))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = request.input;
        let key = self.key_of_parts(&input.bucket, &input.key)?;
        let number = part_number(input.part_number)?;
        let received = self.receive(input.body, input.content_length, input.checksum_sha256.as_deref()).await?;
        let sha256 = received.sha256;
        self.on_disk(move |disk| disk.put_part(key, &input.upload_id, number, &received)).await?;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: strong(sha256.to_string()),
            checksum_sha256: Some(base64(&sha256)),
            ..Default::default()
        }))
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        // An address lets its holder put the bytes that it has, and not copy others: what is copied is no part of what was signed.
        if request.uri.query().is_some_and(|query| query.to_ascii_lowercase().contains("x-amz-signature")) {
            return Err(s3_error!(AccessDenied, "this address is for bytes that are sent"));
        }
        let input = request.input;
        let key = self.key_of_parts(&input.bucket, &input.key)?;
        let number = part_number(input.part_number)?;
        let CopySource::Bucket { bucket, key: from, .. } = input.copy_source else {
            return Err(s3_error!(InvalidArgument, "what is copied is named by its bucket and key"));
        };
        let from = Key { shelf: Shelf::Objects, id: self.key_of_parts(&bucket, &from)? };
        let range = input.copy_source_range.as_deref().and_then(read_range);
        let range = range.ok_or_else(|| s3_error!(InvalidArgument, "a range is written as bytes=0-99"))?;
        let (upload, taken) = (input.upload_id.clone(), range.clone());
        let linked = self.on_disk(move |disk| disk.link_part(key, &upload, number, (from, taken))).await?;
        let sha256 = match linked {
            Some(sha256) => sha256,
            None => {
                let found = self.on_disk(move |disk| Ok(disk.look(from)?)).await?;
                let (pieces, _) = found.ok_or_else(|| s3_error!(NoSuchKey))?;
                if range.end > total(&pieces) {
                    return Err(s3_error!(InvalidArgument, "the object ends before the range does"));
                }
                let length = range.end - range.start;
                let bytes = StreamingBlob::wrap(read(pieces, range.start, length));
                let received = self.receive(Some(bytes), Some(length as i64), None).await?;
                let sha256 = received.sha256;
                self.on_disk(move |disk| disk.put_part(key, &input.upload_id, number, &received)).await?;
                sha256
            }
        };
        Ok(S3Response::new(UploadPartCopyOutput {
            copy_part_result: Some(CopyPartResult {
                e_tag: strong(sha256.to_string()),
                checksum_sha256: Some(base64(&sha256)),
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let key = self.key_of_parts(&input.bucket, &input.key)?;
        let mut wanted = Vec::new();
        for part in input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default() {
            let sha256 = part.e_tag.and_then(|etag| etag.value().parse().ok());
            match (part.part_number, sha256) {
                (Some(number), Some(sha256)) => wanted.push((number.unsigned_abs(), sha256)),
                _ => return Err(s3_error!(InvalidPart, "a part has no number or no ETag of ours")),
            }
        }
        let pieces = self.on_disk(move |disk| disk.finish(key, &input.upload_id, &wanted)).await?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: strong(etag(&pieces)),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        let key = self.key_of_parts(&input.bucket, &input.key)?;
        self.on_disk(move |disk| disk.abort(key, &input.upload_id)).await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let key = self.key(&request.input.bucket, &request.input.key)?;
        let found = self.on_disk(move |disk| Ok(disk.look(key)?)).await?;
        let (pieces, modified) = found.ok_or_else(|| s3_error!(NoSuchKey))?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(total(&pieces) as i64),
            e_tag: strong(etag(&pieces)),
            last_modified: Some(Timestamp::from(modified)),
            accept_ranges: Some("bytes".to_owned()),
            ..Default::default()
        }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let key = self.key(&input.bucket, &input.key)?;
        let found = self.on_disk(move |disk| Ok(disk.look(key)?)).await?;
        let (pieces, modified) = found.ok_or_else(|| s3_error!(NoSuchKey))?;
        let (size, tag) = (total(&pieces), etag(&pieces));
        let range = input.range.map(|range| range.check(size)).transpose()?;
        let (start, length) = range.as_ref().map_or((0, size), |range| (range.start, range.end - range.start));
        Ok(S3Response::new(GetObjectOutput {
            body: Some(StreamingBlob::wrap(read(pieces, start, length))),
            content_length: Some(length as i64),
            content_range: range.map(|range| format!("bytes {}-{}/{size}", range.start, range.end - 1)),
            e_tag: strong(tag),
            last_modified: Some(Timestamp::from(modified)),
            accept_ranges: Some("bytes".to_owned()),
            ..Default::default()
        }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let key = self.key(&request.input.bucket, &request.input.key)?;
        self.on_disk(move |disk| Ok(disk.delete(key)?)).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        let (shelf, prefix) =
            if input.prefix.as_deref() == Some(LOGS) { (Shelf::Logs, LOGS) } else { (Shelf::Objects, PREFIX) };
        let after = input.continuation_token.as_ref().or(input.start_after.as_ref());
        let after = after.and_then(|key| Uuid::try_parse(key.strip_prefix(prefix)?).ok());
        let limit = input.max_keys.map_or(LISTED_AT_ONCE, |most| (most.max(1) as usize).min(LISTED_AT_ONCE));
        let (contents, is_more) = self
            .on_disk(move |disk| {
                let mut keys = disk.keys_after(shelf, after, limit + 1)?;
                let is_more = keys.len() > limit;
                keys.truncate(limit);
                let mut contents = Vec::new();
                for id in keys {
                    // Deleted since, if it is not there.
                    let Some((pieces, modified)) = disk.look(Key { shelf, id })? else { continue };
                    contents.push(Object {
                        key: Some(format!("{prefix}{id}")),
                        size: Some(total(&pieces) as i64),
                        e_tag: strong(etag(&pieces)),
                        last_modified: Some(Timestamp::from(modified)),
                        ..Default::default()
                    });
                }
                Ok((contents, is_more))
            })
            .await?;
        let last = contents.last().and_then(|object| object.key.clone());
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            key_count: Some(contents.len() as i32),
            max_keys: Some(limit as i32),
            is_truncated: Some(is_more),
            next_continuation_token: last.filter(|_| is_more),
            contents: Some(contents),
            ..Default::default()
        }))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        let mut uploads = self.on_disk(|disk| Ok(disk.uploads()?)).await?;
        uploads.sort_by_key(|(_, _, begun)| *begun);
        uploads.truncate(LISTED_AT_ONCE);
        let uploads = uploads.into_iter().map(|(upload, key, begun)| MultipartUpload {
            key: Some(format!("{PREFIX}{key}")),
            upload_id: Some(upload),
            initiated: Some(Timestamp::from(begun)),
            ..Default::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            uploads: Some(uploads.collect()),
            is_truncated: Some(false),
            ..Default::default()
        }))
    }
}

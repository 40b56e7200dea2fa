//! The object store of `unidesk up`: S3 on the listener of the platform, on the disk of this machine.
//!
//! The protocol is the crate `s3s`; what is kept how is `disk.rs`. (The crate `s3s-fs` keeps files too, and is not enough: it takes a part without a look
//! at its checksum, copies all parts when they are put together, which for 50 GB takes longer than anybody waits, loses them if it dies meanwhile,
//! and syncs nothing.)
//!
//! What it can't: more than one bucket, keys of others than us, versions, access lists, and an object that is written twice.

mod disk;
mod s3;

use crate::{ObjectStore, Times, keys::Keys, object_store::Place, presign::Public};
use anyhow::Context as _;
use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use disk::Disk;
use http_body::Frame;
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use std::{
    future::poll_fn,
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tower::ServiceExt as _;

const BUCKET: &str = "unidesk-objects";
const REGION: &str = "us-east-1";

/// The store, opened.
pub struct Embedded {
    service: S3Service,
    access_key_id: String,
    secret_access_key: String,
}

impl Embedded {
    /// Opens the store below a data directory, with credentials that are made once and are this installation's. What a process of before left half
    /// written is removed: no other may have it open.
    pub fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let (access_key_id, secret_access_key) = credentials(&data_dir.join("objects.secret"))?;
        let root = data_dir.join("objects");
        let disk = Disk::open(&root).with_context(|| format!("opening the object store in {}", root.display()))?;
        let mut builder = S3ServiceBuilder::new(s3::Objects::new(Arc::new(disk), BUCKET));
        builder.set_auth(SimpleAuth::from_single(access_key_id.clone(), secret_access_key.clone()));
        Ok(Self { service: builder.build(), access_key_id, secret_access_key })
    }

    /// Its routes. They authenticate by signature, and stand outside of the API's authentication and of its limits of size and time.
    pub fn routes(&self) -> Router {
        Router::new()
            .route(&format!("/{BUCKET}"), any(serve))
            .route(&format!("/{BUCKET}/"), any(serve))
            .route(&format!("/{BUCKET}/{{*key}}"), any(serve))
            .with_state(self.service.clone())
    }

    /// For the services: at the listener's own address. Others reach it wherever they reach the API.
    pub fn object_store(&self, url: &str, times: Times) -> ObjectStore {
        let place = Place {
            endpoint: url.to_owned(),
            bucket: BUCKET.to_owned(),
            region: REGION.to_owned(),
            keys: Keys::set(&self.access_key_id, &self.secret_access_key, None),
            path_style: true,
            trust: trust::Trust::default(),
            equal_parts: false,
        };
        ObjectStore::new(place, Public::WhereAsked, times)
    }
}

async fn serve(State(service): State<S3Service>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = Held(Arc::new(Mutex::new(body)));
    let left = body.clone();
    let mut response = match service.oneshot(Request::from_parts(head, body)).await {
        Ok(response) => response.map(Body::new),
        Err(error) => {
            tracing::warn!(?error, "the object store could not answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    };
    if !response.status().is_success() {
        left.drain().await;
    }
    // It shares its origin with the API: nothing that somebody put in may run in a browser.
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    headers.entry(header::CONTENT_DISPOSITION).or_insert(HeaderValue::from_static("attachment"));
    response
}

/// So much of a refused body is read and thrown away, so that a sender that does not listen meanwhile sees the answer.
const DRAINED_BYTES: usize = 64 << 20;
const DRAINED_WITHIN: Duration = Duration::from_secs(10);

/// A body of which somebody else may take the rest.
#[derive(Clone)]
struct Held(Arc<Mutex<Body>>);

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).poll_frame(context)
    }
    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

impl Held {
    async fn drain(mut self) {
        let read = async {
            let mut drained = 0;
            while drained < DRAINED_BYTES
                && let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut self).poll_frame(context)).await
            {
                drained += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        // Out of patience: the connection is closed under the sender.
        let _ = tokio::time::timeout(DRAINED_WITHIN, read).await;
    }
}

/// An id and a secret, made at the first start and readable by their owner only.
fn credentials(path: &Path) -> anyhow::Result<(String, String)> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let text =
                format!("{}\n{}\n", hex::encode(rand::random::<[u8; 10]>()), hex::encode(rand::random::<[u8; 32]>()));
            let write = || -> std::io::Result<()> {
                let fresh = path.with_extension("new");
                let mut file =
                    std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                std::fs::rename(&fresh, path)
            };
            write().with_context(|| format!("writing {}", path.display()))?;
            text
        }
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let mut lines = text.lines().map(str::to_owned);
    match (lines.next(), lines.next()) {
        (Some(id), Some(secret)) if !id.is_empty() && !secret.is_empty() => Ok((id, secret)),
        _ => anyhow::bail!(
            "{} does not hold an id and a secret, a line each; remove it, and new ones are made",
            path.display()
        ),
    }
}

//! `POST /artifacts:probe`: whether the object store does what is wanted of it, as the service reaches it, and what a client needs to try it from outside.
//! For `unidesk doctor`.

use crate::{
    ObjectStore, ObjectStoreError,
    refusals::{failed, in_time, objects_failed, permit},
    routes::Shared,
    upload::fresh_key,
};
use api_types::check::{Check, OutsideProbe, StoreProbe};
use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
};
use domain::{
    artifact::Sha256Digest,
    principal::{Permission, Principal},
};
use service_kit::ApiError;
use sha2::{Digest as _, Sha256};
use std::time::{Duration, Instant};
use store::Part;
use uuid::Uuid;

const ID: &str = "object-store";
/// A small object should take a store some milliseconds.
const SLOW: Duration = Duration::from_secs(1);

pub(crate) async fn probe(
    State(shared): State<Shared>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    permit(&principal, Permission::Administer)?;
    let Some(objects) = &shared.objects else {
        let none = Check::skipped(ID, "none is set: there are no artifacts, and logs stay in PostgreSQL");
        return Ok(answer(StoreProbe { checks: vec![none], outside: None }));
    };
    // On the list of what is deleted before anything is there: whoever dies in between leaves nothing behind.
    let (inside, outside) = (fresh_key(), fresh_key());
    for key in [&inside, &outside] {
        in_time(shared.store.delete_later(key, shared.times.grace + shared.times.address)).await.map_err(failed)?;
    }
    let check = from_inside(objects, &inside).await;
    let content = format!("UniDesk tries its object store {}\n", Uuid::new_v4());
    let (bytes, sha256) = (content.as_bytes(), Sha256Digest(Sha256::digest(&content).into()));
    let part = Part { number: 1, size: bytes.len() as u64, sha256, etag: None };
    let signer = objects.signer(&headers);
    let put = signer.put(&outside, None, &part).await.map_err(objects_failed)?;
    let get = signer.get(&outside, "probe.txt").await.map_err(objects_failed)?;
    Ok(answer(StoreProbe { checks: vec![check], outside: Some(OutsideProbe { content, put, get }) }))
}

fn answer(probe: StoreProbe) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(probe)).into_response()
}

/// Puts, reads and deletes a small object.
async fn from_inside(objects: &ObjectStore, key: &str) -> Check {
    let began = Instant::now();
    let (tried, step) = put_and_get(objects, key).await;
    let took = began.elapsed();
    match tried {
        Ok(()) if took > SLOW => Check::warning(
            ID,
            format!("it takes the services {:.1} s to put, read and delete a small object", took.as_secs_f64()),
            "Uploads begin and end with such steps: see what keeps the store busy, or how far away it is.",
        ),
        Ok(()) => Check::ok(
            ID,
            format!("the services put, read and delete a small object in {:.0} ms", took.as_secs_f64() * 1_000.0),
        ),
        Err(error) => {
            let advice = match &error {
                ObjectStoreError::Away(_) => {
                    "See that the store runs, and that UNIDESK_S3_ENDPOINT names it as the services reach it."
                }
                ObjectStoreError::Refused(_) => {
                    "Its key must be allowed to list, read, write and delete in UNIDESK_S3_BUCKET; the store's clock must be right within minutes."
                }
            };
            Check::failed(ID, format!("the services can't {step}: {error}"), advice)
        }
    }
}

async fn put_and_get(objects: &ObjectStore, key: &str) -> (Result<(), ObjectStoreError>, &'static str) {
    let content = bytes::Bytes::from_static(b"UniDesk tries its object store\n");
    let sha256 = Sha256Digest(Sha256::digest(&content).into());
    if let Err(error) = objects.put(key, content.clone(), &sha256).await {
        return (Err(error), "put an object");
    }
    match objects.read_range(key, 0, content.len() as u64).await {
        Ok(Some(read)) if read == content => {}
        Ok(_) => {
            let other = ObjectStoreError::Refused("it does not give back what was put".to_owned());
            return (Err(other), "read an object");
        }
        Err(error) => return (Err(error), "read an object"),
    }
    (objects.delete(key).await, "delete an object")
}

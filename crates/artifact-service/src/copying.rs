//! What the newest version of a name has already, the object store copies for the next one: then it need not be sent. Nothing depends on it: what isn't
//! copied, for whatever reason, is put as any other part.

use crate::{ObjectStore, ObjectStoreError, routes::Shared};
use futures::{StreamExt as _, stream};
use std::time::Duration;
use store::{ArtifactView, CommonPart, NotedParts, Part};
use tokio::time::{Instant, timeout_at};

/// A store copies some megabytes within less. Together with what else is done it must be less than an answer of the API may take to begin.
const COPY_WITHIN: Duration = Duration::from_secs(5);
const COPIES_AT_ONCE: usize = 8;

/// Has those of these parts copied that are not stored yet and that there are, and notes them: they have their `ETag` then. `to`: the key, and the
/// store's name of the upload.
pub(crate) async fn copy_common(
    shared: &Shared,
    objects: &ObjectStore,
    artifact: &ArtifactView,
    to: (&str, &str),
    parts: &mut [Part],
) {
    let until = Instant::now() + COPY_WITHIN;
    let missing: Vec<&Part> = parts.iter().filter(|part| part.etag.is_none()).collect();
    if missing.is_empty() {
        return;
    }
    let wanted: Vec<_> = missing.iter().map(|part| (part.size, part.sha256)).collect();
    let looking = shared.store.common_parts(artifact.project, &artifact.name, &wanted);
    let found = match timeout_at(until, looking).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            return tracing::warn!(%error, "what older versions have can't be looked up; it is sent again");
        }
        Err(_) => return tracing::warn!("what older versions have can't be looked up in time; it is sent again"),
    };
    let common: Vec<(u32, CommonPart)> =
        missing.iter().zip(found).filter_map(|(part, found)| Some((part.number, found?))).collect();
    let mut copying = stream::iter(common)
        .map(async |(number, from)| (number, objects.copy_part(to.0, to.1, number, &from).await))
        .buffer_unordered(COPIES_AT_ONCE);
    let mut copied = Vec::new();
    loop {
        match timeout_at(until, copying.next()).await {
            Ok(Some((number, Ok(etag)))) => copied.push((number, etag)),
            Ok(Some((number, Err(ObjectStoreError::Away(why) | ObjectStoreError::Refused(why))))) => {
                tracing::debug!(artifact.id = %artifact.id, number, why, "a part is sent again, as it can't be copied");
            }
            Ok(None) => break,
            Err(_) => {
                tracing::debug!(artifact.id = %artifact.id, "parts are sent again, as the store takes long to copy them");
                break;
            }
        }
    }
    if copied.is_empty() {
        return;
    }
    match timeout_at(until + COPY_WITHIN, shared.store.note_parts(artifact.id, &copied, &[])).await {
        Ok(Ok(NotedParts::Noted { .. })) => {
            for part in parts {
                if let Some((_, etag)) = copied.iter().find(|(number, _)| *number == part.number) {
                    part.etag = Some(etag.clone());
                }
            }
        }
        Ok(Ok(_)) | Err(_) => {}
        Ok(Err(error)) => tracing::warn!(%error, "copied parts can't be noted; they are sent again"),
    }
}

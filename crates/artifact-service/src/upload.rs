//! The way of an upload: it is announced, addresses for its parts are handed out, and in the end the object store is asked whether it has them all.

use crate::{
    ObjectStore,
    copying::copy_common,
    looking::{self, find_by_id, project, view},
    object_store::{Finish, PREFIX},
    refusals::{bad_field, failed, in_time, not_held, objects, objects_failed, permit, upload_ended},
    routes::Shared,
};
use api_types::{
    Problem,
    artifact::{CompleteArtifact, CreateArtifact, PartAddress, PartsAnswer, PartsRequest},
};
use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use domain::{
    artifact::{
        ArtifactRef, ArtifactState, MAX_NAME, MAX_SIZE, MOST_PARTS, Sha256Digest, check_part, is_artifact_name,
        part_size,
    },
    fault::Fault,
    ids::ProjectId,
    principal::{Origin, Permission, Principal, Scope},
};
use service_kit::{ApiError, request_body};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeSet, sync::Arc};
use store::{
    ArtifactView, CompletedArtifact, Holder, NewArtifact, NotedParts, Part, Reserved, StoredObject, UploadPlace,
};
use uuid::Uuid;

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const MAX_KEY_BYTES: usize = 255;
const MAX_LABELS: usize = 64;
const MOST_WANTED: usize = 64;
/// As many as one upload has, so that a client that was away may tell all at once.
const MOST_STORED: usize = MOST_PARTS as usize;
/// Of those parts that are missing so many are named.
const MISSING_SHOWN: usize = 64;

pub(crate) async fn create(
    State(shared): State<Shared>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Response, ApiError> {
    permit(&principal, Permission::RunTasks)?;
    let objects = objects(&shared)?;
    let key = idempotency_key(request.headers())?;
    let wanted: CreateArtifact = request_body::typed(request).await?;
    check(&wanted)?;
    let hash: store::RequestHash = Sha256::digest(serde_json::to_vec(&wanted).unwrap_or_default()).into();
    let project = project(&shared.store, &principal, wanted.project.as_deref()).await?;
    let new = NewArtifact {
        project,
        kind: wanted.kind,
        size: wanted.size,
        media_type: wanted.media_type.unwrap_or_else(|| "application/octet-stream".to_owned()),
        file_name: wanted.file_name.unwrap_or_else(|| wanted.name.clone()),
        name: wanted.name,
        labels: wanted.labels,
        pinned: wanted.pinned,
        part_size: part_size(wanted.size),
        least_part: objects.least_part(wanted.kind, wanted.size),
        key: fresh_key(),
        idempotency: key.map(|key| (key, hash)),
    };
    let (artifact, is_replayed) = match shared.store.reserve_artifact(&new, &principal).await.map_err(failed)? {
        Reserved::New(artifact) => (artifact, false),
        Reserved::Replayed(artifact) => (artifact, true),
        Reserved::KeyReused { first } => {
            let detail = format!("This Idempotency-Key stands for another request, which became artifact {first}.");
            let problem = Problem::new("idempotency-key-reused", detail);
            return Err(problem.with("first_artifact", first.to_string()).into());
        }
    };
    let id = artifact.id;
    let status = if is_replayed { StatusCode::OK } else { StatusCode::CREATED };
    let mut response = (status, Json(looking::upload(artifact, &new))).into_response();
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/artifacts/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if is_replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Nothing of what a user wrote is in a key.
pub(crate) fn fresh_key() -> String {
    format!("{PREFIX}{}", Uuid::new_v4())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<Arc<str>>, ApiError> {
    let mut given = headers.get_all("idempotency-key").iter();
    let Some(value) = given.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or("");
    let is_key = (1..=MAX_KEY_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if given.next().is_some() || !is_key {
        let detail = format!("An Idempotency-Key is one header of 1 to {MAX_KEY_BYTES} visible ASCII characters.");
        let fault = Fault::header("Idempotency-Key", "invalid_header", detail.clone());
        return Err(Problem::new("invalid-request", detail).errors(vec![fault]).into());
    }
    Ok(Some(text.into()))
}

fn check(wanted: &CreateArtifact) -> Result<(), ApiError> {
    if !is_artifact_name(&wanted.name) {
        return Err(bad_field(
            "#/name",
            "bad_name",
            format!(
                "A name of an artifact has 1 to {MAX_NAME} letters, digits, dots, dashes and underscores, begins with a letter or a digit, and is \
                 not of the form of an id."
            ),
        ));
    }
    if wanted.size.is_some_and(|size| size > MAX_SIZE) {
        return Err(bad_field("#/size", "out_of_range", format!("An artifact has at most {MAX_SIZE} bytes.")));
    }
    let is_type = |text: &str| {
        text.len() <= 127
            && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
            && text.split_once('/').is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty())
    };
    if wanted.media_type.as_deref().is_some_and(|text| !is_type(text)) {
        return Err(bad_field("#/media_type", "bad_text", "A media type is written as application/json is."));
    }
    let is_file_name = |text: &str| {
        (1..=255).contains(&text.len())
            && !text.contains('/')
            && !text.chars().any(char::is_control)
            && !matches!(text, "." | "..")
    };
    if wanted.file_name.as_deref().is_some_and(|text| !is_file_name(text)) {
        return Err(bad_field("#/file_name", "bad_text", "A file's name has 1 to 255 bytes, and no slash in it."));
    }
    let is_label = |key: &str, value: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/');
        (1..=63).contains(&key.len())
            && key.bytes().all(plain)
            && value.len() <= 255
            && !value.chars().any(|c| c.is_control() || c == ',')
    };
    if wanted.labels.len() > MAX_LABELS || !wanted.labels.iter().all(|(key, value)| is_label(key, value)) {
        return Err(bad_field(
            "#/labels",
            "bad_labels",
            format!(
                "At most {MAX_LABELS} labels: keys of 1 to 63 letters, digits and . - _ /, values of at most 255 bytes without commas."
            ),
        ));
    }
    Ok(())
}

pub(crate) async fn parts(
    State(shared): State<Shared>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    permit(&principal, Permission::RunTasks)?;
    objects(&shared)?;
    let headers = request.headers().clone();
    let asked: PartsRequest = request_body::typed(request).await?;
    let artifact = find_by_id(&shared.store, &principal, &id).await?;
    of_people(&artifact)?;
    hand_out(&shared, &headers, &artifact, &asked).await
}

/// What an attempt leaves is uploaded by its node: that way its fence is looked at.
fn of_people(artifact: &ArtifactView) -> Result<(), ApiError> {
    match (artifact.attempt, artifact.state) {
        (Some(attempt), ArtifactState::Uploading) => {
            let detail = format!("Attempt {attempt} stores this, and only its node may.");
            Err(ApiError::new("fenced", detail))
        }
        _ => Ok(()),
    }
}

/// An artifact whose upload went on meanwhile.
async fn again(shared: &Shared, artifact: &ArtifactView) -> Result<ArtifactView, ApiError> {
    let name = ArtifactRef::Id(artifact.id);
    let found = in_time(shared.store.find_artifact(Scope::All, artifact.project, &name)).await.map_err(failed)?;
    Ok(found.unwrap_or_else(|| artifact.clone()))
}

/// Notes what is stored, and gives addresses for what is wanted. The caller may upload this artifact.
pub(crate) async fn hand_out(
    shared: &Shared,
    headers: &HeaderMap,
    artifact: &ArtifactView,
    asked: &PartsRequest,
) -> Result<Response, ApiError> {
    let objects = objects(shared)?;
    if asked.wanted.len() > MOST_WANTED {
        let detail =
            format!("{} parts are wanted; at most {MOST_WANTED} are given addresses at once.", asked.wanted.len());
        return Err(bad_field("#/wanted", "too_many", detail));
    }
    let Some(part_size) = artifact.part_size else { return Err(upload_ended(artifact)) };
    let mut numbers = BTreeSet::new();
    for (at, part) in asked.wanted.iter().enumerate() {
        if let Err(error) = check_part(part_size, artifact.size, part.number, part.size) {
            let detail = format!("Part {} with {} bytes: {error}.", part.number, part.size);
            return Err(bad_field(&format!("#/wanted/{at}"), "bad_part", detail));
        }
        if !numbers.insert(part.number) {
            let detail = format!("Part {} is wanted twice.", part.number);
            return Err(bad_field(&format!("#/wanted/{at}"), "twice", detail));
        }
    }
    let wanted: Vec<Part> = asked
        .wanted
        .iter()
        .map(|part| Part { number: part.number, size: part.size, sha256: part.sha256, etag: None })
        .collect();
    let stored = told(&asked.stored)?;
    let Some((mut place, mut parts)) = note(shared, artifact, &stored, &wanted).await? else {
        return Err(upload_ended(&again(shared, artifact).await?));
    };
    let is_multipart = !is_plain(&place, artifact.size);
    if is_multipart && place.upload_id.is_none() && parts.iter().any(|part| part.etag.is_none()) {
        place.upload_id = Some(begin(shared, objects, artifact, &place.key).await?);
    }
    if let Some(upload_id) = place.upload_id.as_deref().filter(|_| is_multipart) {
        copy_common(shared, objects, artifact, (&place.key, upload_id), &mut parts).await;
    }
    let signer = objects.signer(headers);
    let mut addresses = Vec::with_capacity(parts.len());
    for part in &parts {
        let put = match &part.etag {
            Some(_) => None,
            None => Some(signer.put(&place.key, place.upload_id.as_deref(), part).await.map_err(objects_failed)?),
        };
        addresses.push(PartAddress { number: part.number, put });
    }
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(PartsAnswer { parts: addresses })).into_response())
}

/// One part is all there is: it is put as it is.
fn is_plain(place: &UploadPlace, declared: Option<u64>) -> bool {
    place.last_part == Some(1) || declared.is_some_and(|size| size <= place.part_size)
}

fn told(stored: &[api_types::artifact::StoredPart]) -> Result<Vec<(u32, String)>, ApiError> {
    if stored.len() > MOST_STORED {
        return Err(bad_field("#/stored", "too_many", format!("An upload has at most {MOST_STORED} parts.")));
    }
    let read = |(at, part): (usize, &api_types::artifact::StoredPart)| {
        let is_sound = (1..=MOST_PARTS).contains(&part.number)
            && (1..=200).contains(&part.etag.len())
            && part.etag.bytes().all(|b| b.is_ascii_graphic());
        let fault = || {
            let detail = "A stored part has its number and the ETag that the object store answered with.";
            bad_field(&format!("#/stored/{at}"), "bad_part", detail)
        };
        if is_sound { Ok((part.number, part.etag.clone())) } else { Err(fault()) }
    };
    stored.iter().enumerate().map(read).collect()
}

/// Notes what is stored in bites, then what is wanted. None: the upload has ended meanwhile.
async fn note(
    shared: &Shared,
    artifact: &ArtifactView,
    stored: &[(u32, String)],
    wanted: &[Part],
) -> Result<Option<(UploadPlace, Vec<Part>)>, ApiError> {
    let mut bites = stored.chunks(50).peekable();
    loop {
        let bite = bites.next().unwrap_or_default();
        let is_last = bites.peek().is_none();
        let wanted = if is_last { wanted } else { &[] };
        match in_time(shared.store.note_parts(artifact.id, bite, wanted)).await.map_err(failed)? {
            NotedParts::Noted { place, parts } if is_last => return Ok(Some((place, parts))),
            NotedParts::Noted { .. } => {}
            NotedParts::Ended => return Ok(None),
            NotedParts::Differs { announced } => {
                let detail = format!(
                    "Part {} was announced with {} bytes and the SHA-256 {}, and now with others. What is uploaded must not change; \
                     upload the new content as another artifact.",
                    announced.number, announced.size, announced.sha256
                );
                return Err(Problem::new("upload-conflict", detail).with("part", announced.number).into());
            }
            NotedParts::NotLast { number } => {
                let detail = format!(
                    "Part {number}: only the last part may be smaller than {} bytes, and none comes after it.",
                    artifact.least_part.or(artifact.part_size).unwrap_or_default()
                );
                return Err(Problem::new("upload-conflict", detail).with("part", number).into());
            }
        }
    }
}

/// Of two that begin at once, one counts, and the other is given up.
async fn begin(shared: &Shared, objects: &ObjectStore, artifact: &ArtifactView, key: &str) -> Result<String, ApiError> {
    let ours = objects.begin(key).await.map_err(objects_failed)?;
    let counts = shared.store.upload_begun(artifact.id, key, &ours).await.map_err(failed)?;
    if counts.as_deref() != Some(&ours)
        && let Err(error) = objects.abort(key, &ours).await
    {
        tracing::debug!(%error, "an upload that nobody uses is left to the collector");
    }
    counts.ok_or_else(|| upload_ended(artifact))
}

pub(crate) async fn complete(
    State(shared): State<Shared>,
    Extension(origin): Extension<Origin>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<api_types::artifact::Artifact>, ApiError> {
    permit(&origin.principal, Permission::RunTasks)?;
    objects(&shared)?;
    let asked: CompleteArtifact = request_body::typed(request).await?;
    let artifact = find_by_id(&shared.store, &origin.principal, &id).await?;
    of_people(&artifact)?;
    finish(&shared, artifact, &asked, &origin, None).await
}

/// Makes an artifact ready of which all parts are stored. `holder`: the node whose output or checkpoint it is. The caller may upload this artifact.
pub(crate) async fn finish(
    shared: &Shared,
    artifact: ArtifactView,
    asked: &CompleteArtifact,
    origin: &Origin,
    holder: Option<Holder>,
) -> Result<Json<api_types::artifact::Artifact>, ApiError> {
    let objects = objects(shared)?;
    let stored = told(&asked.stored)?;
    if artifact.state != ArtifactState::Uploading {
        return ended(&artifact, asked);
    }
    let upload = match note(shared, &artifact, &stored, &[]).await? {
        Some(_) => in_time(shared.store.upload(artifact.id)).await.map_err(failed)?,
        None => None,
    };
    let Some((place, parts)) = upload else {
        // Completed by another call of this moment, or given up.
        return ended(&again(shared, &artifact).await?, asked);
    };
    check_whole(&artifact, &place, &parts, asked)?;
    let is_there = gather(objects, &place, &parts, asked.size).await.map_err(objects_failed)?;
    if !is_there {
        tracing::warn!(artifact.id = %artifact.id, "the object store has not what it was said to have; the upload begins anew");
        let elsewhere = fresh_key();
        let restarted = shared.store.restart_upload(artifact.id, &place.key, &elsewhere, shared.times.grace);
        in_time(restarted).await.map_err(failed)?;
        return Err(incomplete(
            parts.iter().map(|part| part.number),
            "The object store has not all that it was said to have.",
        ));
    }
    let parts_digest = parts_digest(&parts);
    let stored = StoredObject { key: place.key, size: asked.size, sha256: asked.sha256, parts_digest, parts };
    check_older_copy(shared, objects, artifact.project, &stored, origin).await?;
    let (store, grace) = (&shared.store, shared.times.grace);
    let completed = match holder {
        None => in_time(store.complete_artifact(artifact.id, &stored, grace, origin)).await.map_err(failed)?,
        Some(holder) => {
            let completed = match artifact.checkpoint_of {
                None => in_time(store.complete_output(holder, artifact.id, &stored, grace, origin)).await,
                Some(_) => in_time(store.complete_checkpoint(holder, artifact.id, &stored, grace, origin)).await,
            };
            match completed.map_err(failed)? {
                Some(completed) => completed,
                None => return Err(not_held(shared, holder).await),
            }
        }
    };
    match completed {
        CompletedArtifact::Ready(ready) => Ok(Json(view(ready))),
        CompletedArtifact::Ended(artifact) => Err(upload_ended(&artifact)),
        CompletedArtifact::Restarted => Err(incomplete([], "The upload was begun anew.")),
        CompletedArtifact::NotFound => Err(upload_ended(&artifact)),
    }
}

/// Content that the project has already is kept once, and the new copy dropped. So the older one must be there: where it was lost and nobody has
/// noticed, that is noted now, and the new one is the one that is kept.
async fn check_older_copy(
    shared: &Shared,
    objects: &ObjectStore,
    project: ProjectId,
    stored: &StoredObject,
    origin: &Origin,
) -> Result<(), ApiError> {
    let older = shared.store.object_with_content(project, stored.sha256, stored.parts_digest);
    let Some(older) = in_time(older).await.map_err(failed)?.filter(|older| older.key != stored.key) else {
        return Ok(());
    };
    let found = objects.size(&older.key).await.map_err(objects_failed)?;
    if found == Some(older.size) {
        return Ok(());
    }
    let detail = match found {
        None => "Its bytes were gone when they were put again.".to_owned(),
        Some(size) => format!("It had {size} bytes instead of {} when they were put again.", older.size),
    };
    tracing::warn!(object.key = older.key, "an object is not what it was: {detail}");
    in_time(shared.store.mark_corrupt(&older, &detail, origin)).await.map_err(failed)?;
    Ok(())
}

/// Asked once more after it was done: the same answer. Otherwise a refusal.
fn ended(artifact: &ArtifactView, asked: &CompleteArtifact) -> Result<Json<api_types::artifact::Artifact>, ApiError> {
    let is_same = artifact.state == ArtifactState::Ready
        && (artifact.size, artifact.sha256) == (Some(asked.size), Some(asked.sha256));
    if is_same { Ok(Json(view(artifact.clone()))) } else { Err(upload_ended(artifact)) }
}

/// All parts are stored, there is none between them, and they are as large as was said.
fn check_whole(
    artifact: &ArtifactView,
    place: &UploadPlace,
    parts: &[Part],
    asked: &CompleteArtifact,
) -> Result<(), ApiError> {
    let conflict = |detail: String| Err(Problem::new("upload-conflict", detail).into());
    if let Some(declared) = artifact.size.filter(|declared| *declared != asked.size) {
        return conflict(format!(
            "{declared} bytes were announced, and {} were sent. Begin another upload.",
            asked.size
        ));
    }
    let expected = match place.least_part {
        None => asked.size.div_ceil(place.part_size).max(1),
        Some(_) => u64::from(last_of(parts, asked.size)),
    };
    if let Some(beyond) = parts.iter().find(|part| u64::from(part.number) > expected) {
        let detail =
            format!("Part {} was announced, which is beyond the {} bytes of the whole.", beyond.number, asked.size);
        return conflict(format!("{detail} Begin another upload."));
    }
    let there: BTreeSet<u32> = parts.iter().filter(|part| part.etag.is_some()).map(|part| part.number).collect();
    let expected = u32::try_from(expected).unwrap_or(u32::MAX).min(MOST_PARTS);
    let missing: Vec<u32> = (1..=expected).filter(|number| !there.contains(number)).take(MISSING_SHOWN).collect();
    if !missing.is_empty() {
        let detail = format!("{} of {expected} parts are known to be stored.", there.len());
        return Err(incomplete(missing, &detail));
    }
    let sum: u64 = parts.iter().map(|part| part.size).sum();
    if sum != asked.size {
        return conflict(format!("The parts have {sum} bytes, and the whole is said to have {}.", asked.size));
    }
    Ok(())
}

/// The part with which there are so many bytes, or the last one that is known.
fn last_of(parts: &[Part], size: u64) -> u32 {
    let mut sum = 0;
    let within = parts.iter().take_while(|part| {
        let is_within = sum < size;
        sum += part.size;
        is_within
    });
    within.last().map_or(1, |part| part.number)
}

fn incomplete(missing: impl IntoIterator<Item = u32>, detail: &str) -> ApiError {
    let missing: Vec<u32> = missing.into_iter().take(MISSING_SHOWN).collect();
    let detail = format!("{detail} Ask for addresses of the missing parts, put them, and complete it again.");
    Problem::new("upload-incomplete", detail).with("missing", missing).into()
}

/// Puts the parts together, if that was not done before, and looks whether the object is there. Safe to repeat: whoever died in between finds it done.
async fn gather(
    objects: &ObjectStore,
    place: &UploadPlace,
    parts: &[Part],
    size: u64,
) -> Result<bool, crate::ObjectStoreError> {
    if let Some(upload_id) = &place.upload_id
        && objects.finish(&place.key, upload_id, parts).await? == Finish::PartsDiffer
    {
        return Ok(false);
    }
    Ok(objects.size(&place.key).await? == Some(size))
}

/// SHA-256 over the sizes and checksums of the parts, each of which the object store has compared with its bytes.
fn parts_digest(parts: &[Part]) -> Sha256Digest {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.size.to_be_bytes());
        hasher.update(part.sha256.0);
    }
    Sha256Digest(hasher.finalize().into())
}

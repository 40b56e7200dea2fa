//! Keys under which a task is made once: who comes first claims one, in the same transaction that makes the task.

use super::submit::{NewTask, Submitted};
use crate::StoreError;
use domain::ids::{PrincipalId, ProjectId, TaskId};
use sqlx::PgConnection;
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// SHA-256 of a request in its one canonical form.
pub type RequestHash = [u8; 32];

/// What stands for one request of a caller, however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub key: Arc<str>,
    /// The key is that of a batch, and this the task's place in it, from 0 on.
    pub place: Option<u32>,
    pub request_hash: RequestHash,
}

/// A project, and a key there: with a place it is a batch's.
type Name<'a> = (ProjectId, &'a str, Option<u32>);

/// One that wants a name.
#[derive(Clone, Copy)]
struct Claim {
    task: TaskId,
    hash: RequestHash,
    maker: PrincipalId,
}

/// What names stand for: the task, and the hash of the request that made it.
type Claimed<'a> = BTreeMap<Name<'a>, (TaskId, RequestHash)>;

/// An answer for each task. Waits for a transaction that claims the same key at this moment. Keys are claimed in their order, batches
/// first, so that two transactions can't wait in a circle.
pub(super) async fn claim_keys(
    connection: &mut PgConnection,
    batch: &[&NewTask],
    ids: &[TaskId],
) -> Result<Vec<Submitted>, StoreError> {
    let mut own: BTreeMap<Name<'_>, Claim> = BTreeMap::new();
    let mut of_batches: BTreeMap<(ProjectId, &str), BTreeMap<u32, Claim>> = BTreeMap::new();
    for (new, task) in batch.iter().zip(ids) {
        let Some(IdempotencyKey { key, place, request_hash }) = &new.idempotency else { continue };
        let claim = Claim { task: *task, hash: *request_hash, maker: new.created_by };
        // Of several with one name, the first.
        match place {
            None => own.entry((new.project, key, None)).or_insert(claim),
            Some(place) => of_batches.entry((new.project, key)).or_default().entry(*place).or_insert(claim),
        };
    }
    let mut claimed = claim_batches(connection, &of_batches).await?;
    claimed.extend(claim_own(connection, &own).await?);
    let answer = |new: &NewTask, id: TaskId| {
        let Some(key) = &new.idempotency else { return Submitted::Accepted { id } };
        match claimed.get(&(new.project, &*key.key, key.place)) {
            Some((first, _)) if *first == id => Submitted::Accepted { id },
            Some((first, hash)) if *hash == key.request_hash => Submitted::Replayed { id: *first },
            Some((first, _)) => Submitted::KeyReused { first: *first },
            None => Submitted::Accepted { id },
        }
    };
    Ok(batch.iter().zip(ids).map(|(new, id)| answer(new, *id)).collect())
}

/// Keys that stand for one task each.
async fn claim_own<'a>(
    connection: &mut PgConnection,
    claims: &BTreeMap<Name<'a>, Claim>,
) -> Result<Claimed<'a>, StoreError> {
    let ours = claims.iter().map(|(name, claim)| (*name, (claim.task, claim.hash)));
    if claims.is_empty() {
        return Ok(Claimed::new());
    }
    let projects: Vec<Uuid> = claims.keys().map(|(project, ..)| project.as_uuid()).collect();
    let keys: Vec<String> = claims.keys().map(|(_, key, _)| (*key).to_owned()).collect();
    let inserted = sqlx::query!(
        "INSERT INTO idempotency_keys (project_id, key, created_by, request_hash, task_id)
         SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::bytea[], $5::uuid[]) ON CONFLICT DO NOTHING",
        &projects,
        &keys,
        &claims.values().map(|claim| claim.maker.as_uuid()).collect::<Vec<_>>(),
        &claims.values().map(|claim| claim.hash.to_vec()).collect::<Vec<_>>(),
        &claims.values().map(|claim| claim.task.as_uuid()).collect::<Vec<_>>(),
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    if inserted == keys.len() as u64 {
        return Ok(ours.collect());
    }
    let found = sqlx::query!(
        r#"SELECT k.project_id, k.key, k.request_hash, k.task_id FROM idempotency_keys k
           JOIN UNNEST($1::uuid[], $2::text[]) AS w(project_id, key) ON k.project_id = w.project_id AND k.key = w.key"#,
        &projects,
        &keys,
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut standing: BTreeMap<(Uuid, String), (TaskId, RequestHash)> = BTreeMap::new();
    for row in found {
        standing.insert((row.project_id, row.key), (TaskId::from_uuid(row.task_id), hash_of(&row.request_hash)?));
    }
    let of = |(project, key, _): &Name<'_>| standing.get(&(project.as_uuid(), (*key).to_owned()));
    Ok(claims.keys().filter_map(|name| Some((*name, *of(name)?))).collect())
}

/// Keys that stand for the tasks of a batch, each by its place.
async fn claim_batches<'a>(
    connection: &mut PgConnection,
    batches: &BTreeMap<(ProjectId, &'a str), BTreeMap<u32, Claim>>,
) -> Result<Claimed<'a>, StoreError> {
    let mut claimed = Claimed::new();
    for ((project, key), claims) in batches {
        let is_new = sqlx::query!(
            "INSERT INTO idempotency_batches (project_id, key, created_by, places, request_hashes, task_ids) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT DO NOTHING",
            project.as_uuid(),
            key,
            claims.values().next().map(|claim| claim.maker.as_uuid()),
            &places(claims),
            &hashes(claims),
            &tasks(claims),
        )
        .execute(&mut *connection)
        .await?
        .rows_affected()
            == 1;
        let known = if is_new { BTreeMap::new() } else { read_batch(connection, *project, key).await? };
        let fresh: BTreeMap<u32, Claim> =
            claims.iter().filter(|(place, _)| !known.contains_key(place)).map(|(at, claim)| (*at, *claim)).collect();
        if !is_new && !fresh.is_empty() {
            // Refused when the batch was sent first, and accepted now.
            sqlx::query!(
                "UPDATE idempotency_batches SET places = places || $3::int[], request_hashes = request_hashes || $4::bytea,
                   task_ids = task_ids || $5::uuid[] WHERE project_id = $1 AND key = $2",
                project.as_uuid(),
                key,
                &places(&fresh),
                &hashes(&fresh),
                &tasks(&fresh),
            )
            .execute(&mut *connection)
            .await?;
        }
        claimed.extend(known.into_iter().map(|(place, of)| ((*project, *key, Some(place)), of)));
        claimed.extend(fresh.iter().map(|(place, it)| ((*project, *key, Some(*place)), (it.task, it.hash))));
    }
    Ok(claimed)
}

/// What a batch's key stands for, locked.
async fn read_batch(
    connection: &mut PgConnection,
    project: ProjectId,
    key: &str,
) -> Result<BTreeMap<u32, (TaskId, RequestHash)>, StoreError> {
    let row = sqlx::query!(
        "SELECT places, request_hashes, task_ids FROM idempotency_batches WHERE project_id = $1 AND key = $2 FOR UPDATE",
        project.as_uuid(),
        key
    )
    .fetch_one(connection)
    .await?;
    let of_each = row.places.iter().zip(row.request_hashes.chunks(32)).zip(row.task_ids);
    of_each.map(|((place, hash), task)| Ok((*place as u32, (TaskId::from_uuid(task), hash_of(hash)?)))).collect()
}

fn places(claims: &BTreeMap<u32, Claim>) -> Vec<i32> {
    claims.keys().map(|place| *place as i32).collect()
}

fn hashes(claims: &BTreeMap<u32, Claim>) -> Vec<u8> {
    claims.values().flat_map(|claim| claim.hash).collect()
}

fn tasks(claims: &BTreeMap<u32, Claim>) -> Vec<Uuid> {
    claims.values().map(|claim| claim.task.as_uuid()).collect()
}

fn hash_of(bytes: &[u8]) -> Result<RequestHash, StoreError> {
    bytes.try_into().map_err(|_| StoreError::Corrupt("the hash of a request has not 32 bytes".into()))
}

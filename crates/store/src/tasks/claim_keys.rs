//! Keys under which a task is made once: who comes first claims one, in the same transaction that makes the task.

use super::submit::{NewTask, Submitted};
use crate::{Store, StoreError};
use domain::ids::{PrincipalId, ProjectId, TaskId};
use sqlx::PgConnection;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
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

fn name_of(new: &NewTask) -> Option<Name<'_>> {
    new.idempotency.as_ref().map(|key| (new.project, &*key.key, key.place))
}

/// One that wants a name.
#[derive(Clone, Copy)]
pub(super) struct Claim {
    pub(super) task: TaskId,
    pub(super) hash: RequestHash,
    pub(super) maker: PrincipalId,
}

/// The names that the tasks of a submission want. Of several that want the same one, the first.
pub(super) struct Claims<'a> {
    /// Keys that stand for one task each. They are claimed by the statement that makes the tasks.
    pub(super) own: BTreeMap<(ProjectId, &'a str), Claim>,
    of_batches: BTreeMap<(ProjectId, &'a str), BTreeMap<u32, Claim>>,
}

impl<'a> Claims<'a> {
    pub(super) fn of(batch: &[&'a NewTask], ids: &[TaskId]) -> Self {
        let mut claims = Self { own: BTreeMap::new(), of_batches: BTreeMap::new() };
        for (new, task) in batch.iter().zip(ids) {
            let Some(IdempotencyKey { key, place, request_hash }) = &new.idempotency else { continue };
            let claim = Claim { task: *task, hash: *request_hash, maker: new.created_by };
            match place {
                None => claims.own.entry((new.project, key)).or_insert(claim),
                Some(place) => claims.of_batches.entry((new.project, key)).or_default().entry(*place).or_insert(claim),
            };
        }
        claims
    }

    pub(super) fn has_batches(&self) -> bool {
        !self.of_batches.is_empty()
    }

    /// Whether this task comes first of those that want its name here: no other of the submission has it.
    pub(super) fn is_first(&self, new: &NewTask, id: TaskId) -> bool {
        let claim = match name_of(new) {
            None => return true,
            Some((project, key, None)) => self.own.get(&(project, key)),
            Some((project, key, Some(place))) => {
                self.of_batches.get(&(project, key)).and_then(|places| places.get(&place))
            }
        };
        claim.is_some_and(|claim| claim.task == id)
    }
}

/// What names stand for: the task, and the hash of the request that made it.
#[derive(Default)]
pub(super) struct Claimed<'a>(BTreeMap<Name<'a>, (TaskId, RequestHash)>);

impl<'a> Claimed<'a> {
    /// No other task has the name of this one.
    pub(super) fn is_free_for(&self, new: &NewTask, id: TaskId) -> bool {
        name_of(new).and_then(|name| self.0.get(&name)).is_none_or(|(first, _)| *first == id)
    }

    pub(super) fn answer(&self, new: &NewTask, id: TaskId) -> Submitted {
        let standing = name_of(new).and_then(|name| self.0.get(&name)).zip(new.idempotency.as_ref());
        match standing {
            Some(((first, hash), key)) if *first != id && *hash == key.request_hash => {
                Submitted::Replayed { id: *first }
            }
            Some(((first, _), _)) if *first != id => Submitted::KeyReused { first: *first },
            _ => Submitted::Accepted { id },
        }
    }

    /// Keys of their own, of which these tasks were made. What the others stand for is read. An error that is worth another try: one of
    /// them was forgotten in between.
    pub(super) async fn read_own(
        &mut self,
        connection: &mut PgConnection,
        claims: &Claims<'a>,
        made: &BTreeSet<Uuid>,
    ) -> Result<(), StoreError> {
        let (ours, others): (Vec<_>, Vec<_>) =
            claims.own.iter().partition(|(_, claim)| made.contains(&claim.task.as_uuid()));
        self.0.extend(ours.into_iter().map(|((project, key), it)| ((*project, *key, None), (it.task, it.hash))));
        if others.is_empty() {
            return Ok(());
        }
        let found = sqlx::query!(
            r#"SELECT k.project_id, k.key, k.request_hash, k.task_id FROM idempotency_keys k
               JOIN UNNEST($1::uuid[], $2::text[]) AS w(project_id, key) ON k.project_id = w.project_id AND k.key = w.key"#,
            &others.iter().map(|((project, _), _)| project.as_uuid()).collect::<Vec<_>>(),
            &others.iter().map(|((_, key), _)| (*key).to_owned()).collect::<Vec<_>>(),
        )
        .fetch_all(&mut *connection)
        .await?;
        let mut standing: BTreeMap<(Uuid, String), (TaskId, RequestHash)> = BTreeMap::new();
        for row in found {
            standing.insert((row.project_id, row.key), (TaskId::from_uuid(row.task_id), hash_of(&row.request_hash)?));
        }
        for ((project, key), _) in others {
            let of = standing.get(&(project.as_uuid(), (*key).to_owned())).ok_or(StoreError::KeyForgotten)?;
            self.0.insert((*project, *key, None), *of);
        }
        Ok(())
    }
}

impl Store {
    /// What the keys of these tasks stand for by now, answered as by [`Store::submit`]. None: a task has no key, or nobody has used it. Claims
    /// nothing: for tasks that can't be accepted, since a request that was is accepted for ever.
    pub async fn standing(&self, tasks: &[&NewTask]) -> Result<Vec<Option<Submitted>>, StoreError> {
        let mut claimed = Claimed::default();
        let mut connection = self.pool_for(1).acquire().await?;
        for (project, key, place) in tasks.iter().filter_map(|task| name_of(task)) {
            if claimed.0.contains_key(&(project, key, place)) {
                continue;
            }
            if place.is_some() {
                let row = sqlx::query!(
                    "SELECT places, request_hashes, task_ids FROM idempotency_batches WHERE project_id = $1 AND key = $2",
                    project.as_uuid(),
                    key
                );
                let Some(row) = row.fetch_optional(&mut *connection).await? else { continue };
                for (place, of) in places_of(row.places, &row.request_hashes, row.task_ids)? {
                    claimed.0.insert((project, key, Some(place)), of);
                }
            } else {
                let row = sqlx::query!(
                    "SELECT request_hash, task_id FROM idempotency_keys WHERE project_id = $1 AND key = $2",
                    project.as_uuid(),
                    key
                );
                let Some(row) = row.fetch_optional(&mut *connection).await? else { continue };
                claimed.0.insert((project, key, None), (TaskId::from_uuid(row.task_id), hash_of(&row.request_hash)?));
            }
        }
        let nobody = TaskId::from_uuid(Uuid::nil());
        let stands = |answer: &Submitted| !matches!(answer, Submitted::Accepted { .. });
        Ok(tasks.iter().map(|task| Some(claimed.answer(task, nobody)).filter(stands)).collect())
    }
}

/// Keys that stand for the tasks of a batch, each by its place. Waits for a transaction that claims the same key at this moment. Keys are
/// claimed in their order, batches before what stands for one task, so that two transactions can't wait in a circle.
pub(super) async fn claim_batches<'a>(
    connection: &mut PgConnection,
    claims: &Claims<'a>,
) -> Result<Claimed<'a>, StoreError> {
    let mut claimed = Claimed::default();
    for ((project, key), claims) in &claims.of_batches {
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
        claimed.0.extend(known.into_iter().map(|(place, of)| ((*project, *key, Some(place)), of)));
        claimed.0.extend(fresh.iter().map(|(place, it)| ((*project, *key, Some(*place)), (it.task, it.hash))));
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
    places_of(row.places, &row.request_hashes, row.task_ids)
}

fn places_of(
    places: Vec<i32>,
    hashes: &[u8],
    tasks: Vec<Uuid>,
) -> Result<BTreeMap<u32, (TaskId, RequestHash)>, StoreError> {
    let of_each = places.into_iter().zip(hashes.chunks(32)).zip(tasks);
    of_each.map(|((place, hash), task)| Ok((place as u32, (TaskId::from_uuid(task), hash_of(hash)?)))).collect()
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

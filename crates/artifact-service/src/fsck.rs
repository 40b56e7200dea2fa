//! Compares what is known with what is stored, both ways, a bite each time: objects of rows first, packs of logs, then keys that nothing knows of.

use crate::{
    ObjectStore, ObjectStoreError, Times,
    object_store::{LOGS, PREFIX},
    refusals::{bad_field, failed, in_time, objects, objects_failed, permit},
    routes::Shared,
};
use api_types::artifact::{FsckFinding, FsckKind, FsckReport, FsckRequest};
use axum::{
    Extension, Json,
    extract::{Request, State},
};
use domain::{
    artifact::Sha256Digest,
    principal::{Origin, Permission},
};
use service_kit::{ApiError, request_body};
use sha2::{Digest as _, Sha256};
use std::time::{Duration, Instant};
use store::{Store, StoreError};
use uuid::Uuid;

/// A bite ends after this. What it is reading then is read to its end.
const BITE: Duration = Duration::from_secs(5);
const OBJECTS_AT_ONCE: i64 = 50;

/// Where a check goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// After this object.
    Rows(Uuid),
    /// After this pack of logs.
    Packs(i32),
    /// After this key, of artifacts first and then of packs.
    Keys(String),
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("rows", id) => Uuid::try_parse(id).ok().map(Self::Rows),
            ("packs", id) => id.parse().ok().map(Self::Packs),
            ("keys", key) if key.len() <= 200 => Some(Self::Keys(key.to_owned())),
            _ => None,
        }
    }
    fn write(&self) -> String {
        match self {
            Self::Rows(id) => format!("rows:{id}"),
            Self::Packs(id) => format!("packs:{id}"),
            Self::Keys(key) => format!("keys:{key}"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Objects(#[from] ObjectStoreError),
}

pub(crate) async fn fsck(
    State(shared): State<Shared>,
    Extension(origin): Extension<Origin>,
    request: Request,
) -> Result<Json<FsckReport>, ApiError> {
    permit(&origin.principal, Permission::Administer)?;
    let objects = objects(&shared)?;
    let asked: FsckRequest = request_body::typed_or_default(request).await?;
    let place = match &asked.cursor {
        None => Place::Rows(Uuid::nil()),
        Some(cursor) => Place::parse(cursor)
            .ok_or_else(|| bad_field("#/cursor", "bad_cursor", "This is no cursor; take next_cursor as it is."))?,
    };
    let check = Check { store: &shared.store, objects, times: shared.times, asked: &asked, origin: &origin };
    check.bite(place).await.map(Json).map_err(|trouble| match trouble {
        Trouble::Store(error) => failed(error),
        Trouble::Objects(error) => objects_failed(error),
    })
}

struct Check<'a> {
    store: &'a Store,
    objects: &'a ObjectStore,
    times: Times,
    asked: &'a FsckRequest,
    origin: &'a Origin,
}

impl Check<'_> {
    async fn bite(&self, mut place: Place) -> Result<FsckReport, Trouble> {
        let began = Instant::now();
        let mut report = FsckReport::default();
        loop {
            let next = match place {
                Place::Rows(after) => Some(self.rows(after, began, &mut report).await?),
                Place::Packs(after) => Some(self.packs(after, began, &mut report).await?),
                Place::Keys(after) => self.keys(&after, &mut report).await?.map(Place::Keys),
            };
            match next {
                None => return Ok(report),
                Some(next) if began.elapsed() >= BITE => {
                    report.next_cursor = Some(next.write());
                    return Ok(report);
                }
                Some(next) => place = next,
            }
        }
    }

    async fn rows(&self, after: Uuid, began: Instant, report: &mut FsckReport) -> Result<Place, Trouble> {
        let objects = in_time(self.store.objects_after(after, OBJECTS_AT_ONCE)).await?;
        let is_end = (objects.len() as i64) < OBJECTS_AT_ONCE;
        let mut last = after;
        for object in objects {
            if began.elapsed() >= BITE {
                return Ok(Place::Rows(last));
            }
            last = object.id;
            report.objects += 1;
            report.bytes += object.size;
            if let Some((kind, detail)) = self.look(&object.key, object.size, object.sha256).await? {
                let artifacts = in_time(self.store.artifacts_of_object(object.id)).await?;
                let repaired = self.asked.repair;
                if repaired {
                    in_time(self.store.mark_corrupt(&object, &detail, self.origin)).await?;
                }
                report.findings.push(FsckFinding { kind, key: object.key, artifacts, detail, repaired });
            }
        }
        Ok(if is_end { Place::Packs(0) } else { Place::Rows(last) })
    }

    /// Nothing can be done about a pack that is lost: who reads a log of it is told.
    async fn packs(&self, after: i32, began: Instant, report: &mut FsckReport) -> Result<Place, Trouble> {
        let packs = in_time(self.store.packs_after(after, OBJECTS_AT_ONCE)).await?;
        let is_end = (packs.len() as i64) < OBJECTS_AT_ONCE;
        let mut last = after;
        for pack in packs {
            if began.elapsed() >= BITE {
                return Ok(Place::Packs(last));
            }
            last = pack.id;
            report.objects += 1;
            report.bytes += pack.size;
            if let Some((kind, detail)) = self.look(&pack.key, pack.size, pack.sha256).await? {
                let detail = format!("{detail} Parts of logs are in it, {} in number.", pack.pieces);
                let (artifacts, repaired) = (Vec::new(), false);
                report.findings.push(FsckFinding { kind, key: pack.key, artifacts, detail, repaired });
            }
        }
        Ok(if is_end { Place::Keys(String::new()) } else { Place::Packs(last) })
    }

    async fn look(
        &self,
        key: &str,
        expected: u64,
        sha256: Sha256Digest,
    ) -> Result<Option<(FsckKind, String)>, Trouble> {
        let Some(size) = self.objects.size(key).await? else {
            return Ok(Some((FsckKind::Missing, format!("{expected} bytes should be there, and nothing is."))));
        };
        if size != expected {
            return Ok(Some((FsckKind::WrongSize, format!("{expected} bytes should be there, and {size} are."))));
        }
        if !self.asked.read {
            return Ok(None);
        }
        let Some(mut body) = self.objects.read(key).await? else {
            return Ok(Some((FsckKind::Missing, format!("{expected} bytes were there a moment ago."))));
        };
        let mut hasher = Sha256::new();
        while let Some(bytes) = body.next().await {
            hasher.update(&bytes.map_err(|error| ObjectStoreError::Away(format!("reading an object: {error}")))?);
        }
        let found = Sha256Digest(hasher.finalize().into());
        Ok((found != sha256)
            .then(|| (FsckKind::WrongBytes, format!("Bytes with SHA-256 {sha256} should be there, and {found} are."))))
    }

    /// Where to go on; None: there are no more keys.
    async fn keys(&self, after: &str, report: &mut FsckReport) -> Result<Option<String>, Trouble> {
        let prefix = if after.starts_with(LOGS) { LOGS } else { PREFIX };
        let (keys, is_more) = self.objects.keys_after(prefix, after).await?;
        let last = keys.last().map(|key| key.key.clone());
        let before = chrono::Utc::now().timestamp() - self.times.stray.as_secs() as i64;
        let old: Vec<String> = keys.into_iter().filter(|key| key.modified_at <= before).map(|key| key.key).collect();
        let known = in_time(self.store.known_keys(&old)).await?;
        for key in old.into_iter().filter(|key| key.starts_with(prefix) && !known.contains(key)) {
            let repaired = self.asked.repair;
            if repaired {
                in_time(self.store.drop_stray(&key, self.times.grace)).await?;
            }
            let detail = "Nothing knows of this object.".to_owned();
            report.findings.push(FsckFinding { kind: FsckKind::Stray, key, artifacts: Vec::new(), detail, repaired });
        }
        // A listing after the prefix itself begins with the first key that has it.
        let next = if prefix == PREFIX { Some(LOGS.to_owned()) } else { None };
        Ok(last.filter(|_| is_more).or(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_others_are_none() {
        for place in [
            Place::Rows(Uuid::from_u128(7)),
            Place::Packs(7),
            Place::Keys(String::new()),
            Place::Keys("logs/".into()),
            Place::Keys("objects/a:b".into()),
        ] {
            assert_eq!(Place::parse(&place.write()), Some(place));
        }
        for text in ["", "rows", "rows:x", "packs:x", "other:1"] {
            assert_eq!(Place::parse(text), None);
        }
    }
}

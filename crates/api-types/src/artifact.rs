//! Artifacts: stored files and directories. Their bytes travel between the client and the object store, by addresses that the platform hands out.

use chrono::{DateTime, Utc};
use domain::{
    artifact::{ArtifactKind, ArtifactState, Sha256Digest},
    ids::{ArtifactId, AttemptId, RuleId},
    retention::RetentionRule,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `POST /artifacts`: announces an upload. With the same `Idempotency-Key` and body the upload of before goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateArtifact {
    pub name: String,
    #[serde(default)]
    pub kind: ArtifactKind,
    /// Bytes, where they are known beforehand. Then no other size can be completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What a browser is told; `application/octet-stream` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What it was called where it came from; the name when left out. No path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Slug of the project; `default` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Removed by no rule.
    #[serde(default)]
    pub pinned: bool,
}

/// `POST /node/attempts/{attempt}/{fence}/outputs/{index}`: a node announces the upload of an output. Asked again: the upload of before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateOutput {
    pub kind: ArtifactKind,
    /// Bytes, where they are known beforehand. Then no other size can be completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What it is called where it comes from. No path.
    pub file_name: String,
}

/// What a task has left, in `GET /tasks/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskArtifact {
    pub id: ArtifactId,
    pub name: String,
    pub version: u32,
    pub kind: ArtifactKind,
    pub state: ArtifactState,
    pub size: u64,
    pub sha256: Sha256Digest,
    pub file_name: String,
    pub attempt: AttemptId,
}

/// The newest checkpoint of a task that is stored, in `GET /tasks/{id}`: where its next attempt goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskCheckpoint {
    pub id: ArtifactId,
    pub name: String,
    pub version: u32,
    /// Bytes as they are stored.
    pub size: u64,
    /// Which took it.
    pub attempt: AttemptId,
    pub stored_at: DateTime<Utc>,
}

/// `POST /node/attempts/{attempt}/{fence}/checkpoints/newest`: the checkpoints of its task, whichever attempt took them, the newest first. An attempt
/// begins with the first that it can read whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckpointsAnswer {
    pub checkpoints: Vec<Download>,
}

/// The answer to an announced upload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upload {
    pub artifact: Artifact,
    /// Bytes of every part but the last, which has what is left: at least one byte, or none where it is the only one.
    pub part_size: u64,
    /// Where it is given, parts need not be equal: all but the last have from so many bytes to `part_size`. So a directory can be cut by what is in it,
    /// and parts that the version before has are not sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub least_part: Option<u64>,
}

/// `POST /artifacts/{id}/parts`: says which parts the object store has taken, and asks for addresses of the next. Safe to repeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartsRequest {
    /// Parts that the store has answered with an `ETag`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stored: Vec<StoredPart>,
    /// At most 64. Size and checksum of a part are fixed once an address for it was handed out: other bytes need another upload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted: Vec<WantedPart>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredPart {
    /// From 1 on.
    pub number: u32,
    /// As the store's answer to the PUT said it, quotes and all.
    pub etag: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedPart {
    /// From 1 on.
    pub number: u32,
    /// Bytes: the part size, or less for the last, and for others where a `least_part` was given.
    pub size: u64,
    pub sha256: Sha256Digest,
}

/// One answer a wanted part, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartsAnswer {
    pub parts: Vec<PartAddress>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartAddress {
    pub number: u32,
    /// None: the store has this part already, with this checksum: it was put before, or the newest version of this name has it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put: Option<SignedRequest>,
}

/// A request to the object store that needs no other credential. Its headers are part of the signature: they are sent as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignedRequest {
    pub method: String,
    pub url: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// At most 15 minutes away. A request that has begun by then may end later.
    pub expires_at: DateTime<Utc>,
}

/// `POST /artifacts/{id}/complete`: all parts are stored. Safe to repeat; the answer is the artifact, ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompleteArtifact {
    /// Bytes of the whole.
    pub size: u64,
    /// Of the whole, computed while it was read.
    pub sha256: Sha256Digest,
    /// Those that were not told before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stored: Vec<StoredPart>,
}

/// `GET /artifacts/{ref}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    pub id: ArtifactId,
    pub project: String,
    pub name: String,
    /// Grows with each artifact of this name that becomes ready. None while it is uploaded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub version: Option<u32>,
    pub kind: ArtifactKind,
    pub state: ArtifactState,
    /// Bytes as they are stored. None while they are not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
    /// Of the stored bytes. None while it is uploaded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<Sha256Digest>,
    pub media_type: String,
    pub file_name: String,
    pub labels: BTreeMap<String, String>,
    pub pinned: bool,
    /// The attempt that made it. None: a person put it there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attempt: Option<AttemptId>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ready_at: Option<DateTime<Utc>>,
    /// Bytes that the store has while it is uploaded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stored_bytes: Option<u64>,
}

/// `GET /artifacts?project=&name=&state=&label=&limit=&cursor=`: the newest first. Without `state` those that are not removed; `label` is `key` or
/// `key=value`; several, after commas, must all hold. A page may be short and have a `next_cursor` all the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArtifactList {
    pub artifacts: Vec<Artifact>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
}

/// `POST /artifacts/{ref}/download`: where the bytes of an artifact are. Ranges may be asked for; `GET /artifacts/{ref}/content` redirects to the same address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Download {
    pub artifact: Artifact,
    pub get: SignedRequest,
}

/// `POST /artifacts:fsck`: compares what is known with what is stored, a bite each time. For administrators.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FsckRequest {
    /// Also read every byte and compare the checksums.
    pub read: bool,
    /// Mark as corrupt what is not there or not what it was, and delete what belongs to nothing.
    pub repair: bool,
    /// `next_cursor` of the answer before. None: from the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What one bite of a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckReport {
    /// Objects that were looked at.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    pub findings: Vec<FsckFinding>,
    /// None: the check is done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FsckKind {
    /// A row's object is not in the store.
    Missing,
    /// The object has another size.
    WrongSize,
    /// The object has other bytes.
    WrongBytes,
    /// An object that nothing knows of, older than a day.
    Stray,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckFinding {
    pub kind: FsckKind,
    /// Of the object store.
    pub key: String,
    /// `name@version` of some whose bytes these are.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub artifacts: Vec<String>,
    /// One sentence.
    pub detail: String,
    /// Something was done about it.
    pub repaired: bool,
}

/// `POST /artifact-rules` and `POST /artifact-rules:preview`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateRule {
    /// Slug of the project; the caller's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    pub rule: RetentionRule,
    /// Of a preview: `next_cursor` of the answer before. None: from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A rule about how long artifacts are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub id: RuleId,
    pub project: String,
    pub rule: RetentionRule,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
}

/// `GET /artifact-rules`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleList {
    pub rules: Vec<Rule>,
}

/// What a rule would remove now, a bite each time. Nothing is removed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RulePreview {
    /// `name@version`.
    pub artifacts: Vec<String>,
    /// Their bytes as they are stored; some may share them with others that stay.
    pub bytes: u64,
    /// None: these were the last ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

//! Routes of artifacts, and what gives the transfer engine its addresses. The bytes themselves never come this way.

use crate::{Client, ClientError};
use api_types::artifact::{
    Artifact, ArtifactList, CompleteArtifact, CreateArtifact, CreateRule, Download, FsckReport, FsckRequest,
    PartAddress, PartsAnswer, PartsRequest, Rule, RuleList, RulePreview, SignedRequest, Upload,
};
use domain::{
    artifact::ArtifactRef,
    ids::{ArtifactId, RuleId},
};
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;
use transfer::{AddressError, Downloads, Uploads};

/// The store puts an object together from its parts, and the server waits for it.
pub(crate) const COMPLETE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// One large object is read to its end within a bite.
const FSCK_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Which artifacts are listed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ArtifactQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// By comma. None: those that are not removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `key` or `key=value`; several by comma must all hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Client {
    /// Announces an upload. The same key and body again: the upload of before, which may be ready by now.
    pub async fn create_artifact(&self, wanted: &CreateArtifact, key: Option<&str>) -> Result<Upload, ClientError> {
        self.create("/artifacts", wanted, key).await
    }

    /// Tells which parts are stored, and asks where others go. Safe to repeat.
    pub async fn artifact_parts(
        &self,
        id: ArtifactId,
        request: &PartsRequest,
    ) -> Result<Vec<PartAddress>, ClientError> {
        self.act::<PartsAnswer>(&format!("/artifacts/{id}/parts"), request).await.map(|answer| answer.parts)
    }

    /// Makes it ready. May take minutes for a large one; safe to repeat.
    pub async fn complete_artifact(&self, id: ArtifactId, whole: &CompleteArtifact) -> Result<Artifact, ClientError> {
        self.act_within(&format!("/artifacts/{id}/complete"), whole, COMPLETE_TIMEOUT).await
    }

    /// `project`: where the name is looked up; the caller's own when None.
    pub async fn artifact(&self, name: &ArtifactRef, project: Option<&str>) -> Result<Artifact, ClientError> {
        let query: Vec<_> = project.map(|project| ("project", project)).into_iter().collect();
        self.get(&format!("/artifacts/{name}"), &query).await
    }

    /// One page, the newest first. It may be short, and not the last one.
    pub async fn artifacts(&self, query: &ArtifactQuery) -> Result<ArtifactList, ClientError> {
        self.get("/artifacts", query).await
    }

    /// Removes it at once; its bytes follow. Safe to repeat.
    pub async fn delete_artifact(&self, id: ArtifactId) -> Result<(), ClientError> {
        self.delete(&format!("/artifacts/{id}")).await
    }

    /// Whether rules may remove it. Safe to repeat.
    pub async fn pin_artifact(&self, id: ArtifactId, pinned: bool) -> Result<Artifact, ClientError> {
        let word = if pinned { "pin" } else { "unpin" };
        self.act(&format!("/artifacts/{id}/{word}"), &json!({})).await
    }

    /// All that the caller can see.
    pub async fn artifact_rules(&self) -> Result<Vec<Rule>, ClientError> {
        self.get::<RuleList>("/artifact-rules", &[("", ""); 0]).await.map(|list| list.rules)
    }

    /// Another rule each time, so it is sent once.
    pub async fn add_artifact_rule(&self, wanted: &CreateRule) -> Result<Rule, ClientError> {
        self.act_once("/artifact-rules", wanted).await
    }

    /// A bite of what it would remove: as long as the answer has a cursor, there is more.
    pub async fn preview_artifact_rule(&self, wanted: &CreateRule) -> Result<RulePreview, ClientError> {
        self.act("/artifact-rules:preview", wanted).await
    }

    pub async fn delete_artifact_rule(&self, id: RuleId) -> Result<(), ClientError> {
        self.delete(&format!("/artifact-rules/{id}")).await
    }

    /// One bite of a check: as long as the answer has a cursor, there is more. For administrators.
    pub async fn fsck_artifacts(&self, request: &FsckRequest) -> Result<FsckReport, ClientError> {
        self.act_within("/artifacts:fsck", request, FSCK_TIMEOUT).await
    }

    /// Where its bytes are, for a quarter of an hour.
    pub async fn download_artifact(&self, id: ArtifactId) -> Result<Download, ClientError> {
        self.act(&format!("/artifacts/{id}/download"), &json!({})).await
    }
}

/// Gives the parts of one upload their addresses. Each question is asked once: the engine has the patience.
pub struct ArtifactUpload {
    client: Client,
    id: ArtifactId,
}

impl ArtifactUpload {
    pub fn new(client: &Client, id: ArtifactId) -> Self {
        Self { client: client.clone().with_pauses([]), id }
    }

    /// Once all parts are stored.
    pub async fn complete(&self, whole: &CompleteArtifact) -> Result<Artifact, AddressError> {
        self.client.complete_artifact(self.id, whole).await.map_err(AddressError::from)
    }
}

impl Uploads for ArtifactUpload {
    fn parts(&self, request: PartsRequest) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>> {
        async move { self.client.artifact_parts(self.id, &request).await.map_err(AddressError::from) }.boxed()
    }
}

/// Gives addresses of one artifact's bytes.
pub struct ArtifactDownload {
    client: Client,
    id: ArtifactId,
}

impl ArtifactDownload {
    /// By its id: a name may mean a newer one in the middle of a transfer.
    pub fn new(client: &Client, id: ArtifactId) -> Self {
        Self { client: client.clone().with_pauses([]), id }
    }
}

impl Downloads for ArtifactDownload {
    fn address(&self) -> BoxFuture<'_, Result<SignedRequest, AddressError>> {
        async move {
            let download = self.client.download_artifact(self.id).await;
            download.map(|download| download.get).map_err(AddressError::from)
        }
        .boxed()
    }
}

impl From<ClientError> for AddressError {
    fn from(error: ClientError) -> Self {
        let why = match &error {
            ClientError::Unreachable { why, .. } => format!("server: {why}"),
            other => other.to_string(),
        };
        // A platform without an object store does not get one by waiting.
        let is_passing = error.is_passing() && !error.is_problem("no-object-store");
        Self { why, is_passing, retry_after: None, source: Some(Box::new(error)) }
    }
}

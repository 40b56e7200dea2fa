//! Routes for nodes: where the inputs and checkpoints of a live attempt are, and where its outputs and checkpoints go. The token is the node's.

use crate::{Client, ClientError, artifacts::COMPLETE_TIMEOUT};
use api_types::artifact::{
    Artifact, CheckpointsAnswer, CompleteArtifact, CreateOutput, Download, PartAddress, PartsAnswer, PartsRequest,
    Upload,
};
use domain::ids::{ArtifactId, Held};
use serde_json::json;

fn path(held: Held, what: &str, index: usize) -> String {
    format!("{}/{index}", list(held, what))
}

fn list(held: Held, what: &str) -> String {
    format!("/node/attempts/{}/{}/{what}", held.attempt, held.fence)
}

impl Client {
    /// Where the bytes of an input are, for a quarter of an hour. `index`: in the task's list.
    pub async fn attempt_input(&self, held: Held, index: usize) -> Result<Download, ClientError> {
        self.act(&path(held, "inputs", index), &json!({})).await
    }

    /// Announces the upload of an output. Again: the same one, however far it is.
    pub async fn attempt_output(&self, held: Held, index: usize, output: &CreateOutput) -> Result<Upload, ClientError> {
        self.act(&path(held, "outputs", index), output).await
    }

    /// Tells which parts are stored, and asks where others go. Safe to repeat.
    pub async fn attempt_output_parts(
        &self,
        held: Held,
        index: usize,
        request: &PartsRequest,
    ) -> Result<Vec<PartAddress>, ClientError> {
        let path = format!("{}/parts", path(held, "outputs", index));
        self.act::<PartsAnswer>(&path, request).await.map(|answer| answer.parts)
    }

    /// Makes it ready. May take minutes for a large one; safe to repeat.
    pub async fn complete_attempt_output(
        &self,
        held: Held,
        index: usize,
        whole: &CompleteArtifact,
    ) -> Result<Artifact, ClientError> {
        let path = format!("{}/complete", path(held, "outputs", index));
        self.act_within(&path, whole, COMPLETE_TIMEOUT).await
    }
    /// The checkpoints of its task with where their bytes are, the newest first; none: it begins from the beginning.
    pub async fn attempt_checkpoints(&self, held: Held) -> Result<Vec<Download>, ClientError> {
        let path = format!("{}/newest", list(held, "checkpoints"));
        self.act::<CheckpointsAnswer>(&path, &json!({})).await.map(|answer| answer.checkpoints)
    }

    /// Announces the upload of a checkpoint. One that this attempt was still uploading is given up.
    pub async fn begin_checkpoint(&self, held: Held, checkpoint: &CreateOutput) -> Result<Upload, ClientError> {
        self.act(&list(held, "checkpoints"), checkpoint).await
    }

    /// Tells which parts are stored, and asks where others go. Safe to repeat.
    pub async fn checkpoint_parts(
        &self,
        held: Held,
        checkpoint: ArtifactId,
        request: &PartsRequest,
    ) -> Result<Vec<PartAddress>, ClientError> {
        let path = format!("{}/{checkpoint}/parts", list(held, "checkpoints"));
        self.act::<PartsAnswer>(&path, request).await.map(|answer| answer.parts)
    }

    /// Makes it ready, and the newest of its task. Safe to repeat.
    pub async fn complete_checkpoint(
        &self,
        held: Held,
        checkpoint: ArtifactId,
        whole: &CompleteArtifact,
    ) -> Result<Artifact, ClientError> {
        let path = format!("{}/{checkpoint}/complete", list(held, "checkpoints"));
        self.act_within(&path, whole, COMPLETE_TIMEOUT).await
    }
}

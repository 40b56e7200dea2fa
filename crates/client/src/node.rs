//! Routes for nodes: where the inputs of a live attempt are, and where its outputs go. The token is the node's.

use crate::{Client, ClientError, artifacts::COMPLETE_TIMEOUT};
use api_types::artifact::{
    Artifact, CompleteArtifact, CreateOutput, Download, PartAddress, PartsAnswer, PartsRequest, Upload,
};
use domain::ids::Held;
use serde_json::json;

fn path(held: Held, what: &str, index: usize) -> String {
    format!("/node/attempts/{}/{}/{what}/{index}", held.attempt, held.fence)
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
}

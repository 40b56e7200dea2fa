//! Addresses from the platform, over HTTPS with the node's token.

use super::{Addresses, Refusal};
use crate::connection::http_address;
use api_types::artifact::{Artifact, CompleteArtifact, CreateOutput, PartAddress, PartsRequest, SignedRequest, Upload};
use client::{Client, ClientError};
use domain::ids::Held;
use futures::{FutureExt, future::BoxFuture};
use std::time::Duration;
use transfer::AddressError;

/// A token that is not taken now may be taken later, but there is no hurry.
const UNAUTHORISED_WAIT: Duration = Duration::from_secs(30);

pub struct Platform {
    client: Client,
}

impl Platform {
    /// `url`: as the agent dials it. Does not connect. Errors: it is no address, or the token would be readable on the way.
    pub fn new(url: &str, token: &str) -> Result<Self, String> {
        let client = Client::new(http_address(url)?, token).map_err(|error| error.to_string())?;
        Ok(Self { client: client.with_pauses([]) })
    }
}

impl Addresses for Platform {
    fn input(&self, held: Held, index: usize) -> BoxFuture<'_, Result<SignedRequest, AddressError>> {
        async move {
            let download = self.client.attempt_input(held, index).await;
            download.map(|download| download.get).map_err(explain)
        }
        .boxed()
    }

    fn begin_output(
        &self,
        held: Held,
        index: usize,
        output: CreateOutput,
    ) -> BoxFuture<'_, Result<Upload, AddressError>> {
        async move { self.client.attempt_output(held, index, &output).await.map_err(explain) }.boxed()
    }

    fn output_parts(
        &self,
        held: Held,
        index: usize,
        request: PartsRequest,
    ) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>> {
        async move { self.client.attempt_output_parts(held, index, &request).await.map_err(explain) }.boxed()
    }

    fn complete_output(
        &self,
        held: Held,
        index: usize,
        whole: CompleteArtifact,
    ) -> BoxFuture<'_, Result<Artifact, AddressError>> {
        async move { self.client.complete_attempt_output(held, index, &whole).await.map_err(explain) }.boxed()
    }
}

fn explain(error: ClientError) -> AddressError {
    let problem = error.problem();
    let refusal = match problem.map(|problem| problem.word()) {
        Some("fenced") => Some(Refusal::Fenced),
        Some("upload-ended" | "upload-conflict" | "upload-incomplete") => Some(Refusal::BeginAnew),
        _ => None,
    };
    let is_unauthorised = problem.is_some_and(|problem| matches!(problem.status, 401 | 403));
    let asked = problem.and_then(|problem| problem.retry_after_ms).map(Duration::from_millis);
    let retry_after = asked.or(is_unauthorised.then_some(UNAUTHORISED_WAIT));
    let explained = AddressError::from(error);
    AddressError {
        // An owner mends a token; until then the attempt is as good as on a node without a line.
        is_passing: explained.is_passing || is_unauthorised,
        retry_after,
        source: refusal.map_or(explained.source, |refusal| Some(Box::new(refusal))),
        why: explained.why,
    }
}

//! Addresses from the platform, over HTTPS with the node's token.

use super::{Addresses, Refusal};
use crate::connection::http_address;
use api_types::artifact::{
    Artifact, CompleteArtifact, CreateOutput, Download, PartAddress, PartsRequest, SignedRequest, Upload,
};
use client::{Client, ClientError};
use domain::ids::{ArtifactId, Held};
use futures::{FutureExt, future::BoxFuture};
use std::time::Duration;
use transfer::AddressError;
use trust::Trust;

/// A token that is not taken now may be taken later, but there is no hurry.
const UNAUTHORISED_WAIT: Duration = Duration::from_secs(30);

pub struct Platform {
    client: Client,
}

impl Platform {
    /// `url`: as the agent dials it. Does not connect. Errors: it is no address, or the token would be readable on the way.
    pub fn new(url: &str, token: &str, trust: &Trust) -> Result<Self, String> {
        let client = Client::trusting(http_address(url)?, token, trust).map_err(|error| error.to_string())?;
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

    fn checkpoints(&self, held: Held) -> BoxFuture<'_, Result<Vec<Download>, AddressError>> {
        async move { self.client.attempt_checkpoints(held).await.map_err(explain) }.boxed()
    }

    fn begin_checkpoint(&self, held: Held, checkpoint: CreateOutput) -> BoxFuture<'_, Result<Upload, AddressError>> {
        async move { self.client.begin_checkpoint(held, &checkpoint).await.map_err(explain) }.boxed()
    }

    fn checkpoint_parts(
        &self,
        held: Held,
        checkpoint: ArtifactId,
        request: PartsRequest,
    ) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>> {
        async move { self.client.checkpoint_parts(held, checkpoint, &request).await.map_err(explain) }.boxed()
    }

    fn complete_checkpoint(
        &self,
        held: Held,
        checkpoint: ArtifactId,
        whole: CompleteArtifact,
    ) -> BoxFuture<'_, Result<Artifact, AddressError>> {
        async move { self.client.complete_checkpoint(held, checkpoint, &whole).await.map_err(explain) }.boxed()
    }
}

fn explain(error: ClientError) -> AddressError {
    let problem = error.problem();
    let refusal = match problem.map(|problem| problem.word()) {
        Some("fenced") => Some(Refusal::Fenced),
        Some("already-ended") => Some(Refusal::Ended),
        Some("upload-ended" | "upload-conflict" | "upload-incomplete") => Some(Refusal::BeginAnew),
        Some("no-object-store") => Some(Refusal::NoStore),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::refusal;
    use domain::ids::{AttemptId, Fence};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use transfer::TransferError;
    use uuid::Uuid;

    /// Asks for an input of a server that gives this answer: what was asked, and what came of it.
    async fn ask(status: u16, word: &str) -> (String, AddressError) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let platform =
            Platform::new(&format!("ws://{}/", listener.local_addr().expect("bound")), "node-token", &Trust::default());
        let held = Held { attempt: AttemptId::from_uuid(Uuid::from_u128(7)), fence: Fence::from_i64(3) };
        let platform = platform.expect("an address");
        let answering = async {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut asked = vec![0; 4_096];
            let length = socket.read(&mut asked).await.expect("a request");
            let body = format!(
                r#"{{"type":"{}{word}","title":"t","status":{status},"detail":"why","retry_after_ms":2000}}"#,
                api_types::problem::TYPE_BASE
            );
            let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            socket.write_all((head + &body).as_bytes()).await.expect("answered");
            String::from_utf8_lossy(&asked[..length]).into_owned()
        };
        let (asked, answer) = tokio::join!(answering, platform.input(held, 2));
        (asked, answer.expect_err("it is refused"))
    }

    #[tokio::test]
    async fn a_refusal_says_whether_to_wait_to_stop_or_to_begin_anew() {
        for (status, word, is_passing, expected) in [
            (409, "fenced", false, Some(Refusal::Fenced)),
            (409, "already-ended", false, Some(Refusal::Ended)),
            (409, "upload-ended", false, Some(Refusal::BeginAnew)),
            (409, "upload-incomplete", false, Some(Refusal::BeginAnew)),
            (503, "object-store-away", true, None),
            (404, "no-such-artifact", false, None),
            (401, "unauthenticated", true, None),
            (501, "no-object-store", false, Some(Refusal::NoStore)),
        ] {
            let (asked, error) = ask(status, word).await;
            assert!(
                asked.starts_with(&format!("POST /api/v1/node/attempts/{}/3/inputs/2 ", Uuid::from_u128(7))),
                "{asked}"
            );
            assert!(asked.to_ascii_lowercase().contains("authorization: bearer node-token"), "{asked}");
            assert_eq!((error.is_passing, error.retry_after.is_some()), (is_passing, true), "{word}");
            assert_eq!(refusal(&TransferError::NoAddress(error)), expected, "{word}");
        }
    }

    #[test]
    fn a_token_never_travels_in_plain_text_to_another_machine() {
        assert!(Platform::new("http://unidesk.example", "t", &Trust::default()).is_err());
        assert!(Platform::new("https://unidesk.example", "t", &Trust::default()).is_ok());
    }
}

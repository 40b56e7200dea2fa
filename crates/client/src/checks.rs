//! What `unidesk doctor` asks: what the platform knows of itself, and what only its client sees of the way between them.

use crate::{Client, ClientError, error::refusal};
use api_types::check::{ServerChecks, StoreProbe};
use domain::Timestamp;
use futures::{SinkExt as _, StreamExt as _};
use reqwest::{StatusCode, header};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::client::generate_key,
        protocol::{Message, Role, WebSocketConfig},
    },
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

const ECHOED_WITHIN: Duration = Duration::from_secs(20);

/// What a plain request showed.
#[derive(Clone, Debug)]
pub struct Look {
    pub took: Duration,
    /// By the clock of whoever answered, to the second.
    pub their_time: Option<Timestamp>,
    /// When the certificate ends that was shown. None: no TLS.
    pub certificate_ends: Option<Timestamp>,
}

impl Client {
    /// What the platform finds when it looks at itself. For administrators.
    pub async fn server_checks(&self) -> Result<ServerChecks, ClientError> {
        self.get("/cluster/checks", &()).await
    }

    /// Tries the object store from the server's side, and gives what it takes to try it from here. For administrators.
    pub async fn probe_store(&self) -> Result<StoreProbe, ClientError> {
        self.act("/artifacts:probe", &json!({})).await
    }

    /// One request that needs no credential, not repeated.
    pub async fn look(&self) -> Result<Look, ClientError> {
        let began = Instant::now();
        let asked = self.http.get(format!("{}/healthz", self.base_url)).timeout(ECHOED_WITHIN).send().await;
        let answer = asked.map_err(|source| self.unreachable(source, 1, began))?;
        let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        let certificate = answer.extensions().get::<reqwest::tls::TlsInfo>().and_then(|tls| tls.peer_certificate());
        let look = Look {
            took: began.elapsed(),
            their_time: date.and_then(|date| Some(chrono::DateTime::parse_from_rfc2822(date).ok()?.to_utc())),
            certificate_ends: certificate.and_then(ends_at),
        };
        match answer.status() {
            StatusCode::OK => Ok(look),
            status => Err(self.not_ours(format!("{status} at /healthz"))),
        }
    }

    /// Sends so many bytes over a WebSocket, and waits until they are back: how long that took. `silence`: the socket says nothing for so long before.
    pub async fn echo(&self, bytes: usize, silence: Duration) -> Result<Duration, ClientError> {
        let mut socket = self.open_echo().await?;
        tokio::time::sleep(silence).await;
        let sent = vec![b'u'; bytes];
        let began = Instant::now();
        let talk = async {
            socket.send(Message::binary(sent.clone())).await.map_err(|error| error.to_string())?;
            loop {
                match socket.next().await {
                    Some(Ok(Message::Binary(back))) if back == sent => return Ok(began.elapsed()),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(other)) => return Err(format!("something else came back: {} bytes", other.len())),
                    Some(Err(error)) => return Err(error.to_string()),
                    None => return Err("it was closed on the way".to_owned()),
                }
            }
        };
        match tokio::time::timeout(ECHOED_WITHIN, talk).await {
            Ok(answer) => answer.map_err(|why| self.not_ours(why)),
            Err(_) => Err(self.not_ours(format!("nothing came back within {} s", ECHOED_WITHIN.as_secs()))),
        }
    }

    async fn open_echo(&self) -> Result<WebSocketStream<reqwest::Upgraded>, ClientError> {
        let began = Instant::now();
        let request = self
            .http
            .get(self.url("/cluster/echo"))
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key());
        let opening = tokio::time::timeout(ECHOED_WITHIN, request.send()).await;
        let opening = opening.map_err(|_| self.not_ours("a WebSocket did not open in time".to_owned()))?;
        let answer = opening.map_err(|source| self.unreachable(source, 1, began))?;
        let status = answer.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let said = answer.bytes().await.unwrap_or_default();
            return Err(match refusal(&self.url("/cluster/echo"), status, &said) {
                refused @ ClientError::Problem(_) if matches!(status.as_u16(), 401 | 403) => refused,
                _ => self.not_ours(format!("{status} in place of a WebSocket")),
            });
        }
        let upgraded = answer.upgrade().await.map_err(|source| self.unreachable(source, 1, began))?;
        let config = WebSocketConfig::default();
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await)
    }

    fn not_ours(&self, what: String) -> ClientError {
        ClientError::Protocol { url: self.base_url.to_string(), what }
    }
}

fn ends_at(der: &[u8]) -> Option<Timestamp> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Timestamp::from_timestamp(certificate.validity().not_after.timestamp(), 0)
}

//! Dials the platform and makes a [`Transport`] of the WebSocket.

use futures::{Sink, Stream};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use protocol::{
    CONNECT_PATH, HEARTBEAT_MS, MAX_FRAME_BYTES, SUBPROTOCOL, silence_after,
    transport::{Message, Transport, TransportError},
};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream,
    tungstenite::{self, client::IntoClientRequest, http::HeaderValue, protocol::WebSocketConfig},
};
use trust::Trust;

/// What came of dialling.
pub enum Dialled {
    Open(Box<dyn Transport>),
    Unauthorised(String),
    RetryAfter(Duration),
    Failed(TransportError),
}

/// Connects to `url` (http, https, ws or wss; the path is the protocol's own). Plain text is taken for loopback only: the token
/// would be readable on the way.
pub async fn dial(url: &str, token: &str, trust: &Trust) -> Dialled {
    let request = match request(url, token) {
        Ok(request) => request,
        Err(reason) => return Dialled::Failed(TransportError::Protocol(reason)),
    };
    // Buffers of 4 KiB: an idle connection costs 6 KiB instead of 134.
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME_BYTES))
        .max_frame_size(Some(MAX_FRAME_BYTES))
        .read_buffer_size(4 * 1024)
        .write_buffer_size(4 * 1024)
        .max_write_buffer_size(4 << 20);
    let is_tls = request.uri().scheme_str() == Some("wss");
    let connector = match is_tls.then(|| trust.tls()).transpose() {
        Ok(tls) => tls.map_or(Connector::Plain, Connector::Rustls),
        Err(error) => return Dialled::Failed(TransportError::Broken(error.into())),
    };
    let connecting = tokio_tungstenite::connect_async_tls_with_config(request, Some(config), true, Some(connector));
    match tokio::time::timeout(Duration::from_secs(20), connecting).await {
        Err(_) => Dialled::Failed(TransportError::Silent),
        Ok(Ok((socket, _))) => {
            give_up_when_unacknowledged(&socket);
            Dialled::Open(Box::new(Socket { inner: socket }))
        }
        Ok(Err(tungstenite::Error::Http(response))) => refused(&response),
        Ok(Err(error)) => {
            let refused = trust::refusal(&error, trust::CA_FILE);
            Dialled::Failed(TransportError::Broken(refused.map_or_else(|| Box::new(error) as _, Into::into)))
        }
    }
}

/// A line that a NAT has forgotten ends after 45 s and not after a quarter of an hour, as the kernel alone would have it.
fn give_up_when_unacknowledged(socket: &WebSocketStream<MaybeTlsStream<TcpStream>>) {
    let stream = match socket.get_ref() {
        MaybeTlsStream::Plain(stream) => stream,
        MaybeTlsStream::Rustls(stream) => stream.get_ref().0,
        _ => return,
    };
    let silence = silence_after(Duration::from_millis(HEARTBEAT_MS));
    if let Err(error) = setsockopt(stream, TcpUserTimeout, &(silence.as_millis() as u32)) {
        tracing::debug!(%error, "no time limit on unacknowledged bytes");
    }
}

/// The same server's address for HTTP. Errors: it is none, or plain text to another machine.
pub(crate) fn http_address(url: &str) -> Result<String, String> {
    let base = url.trim_end_matches('/');
    match base.split_once("://") {
        Some(("http" | "ws", rest)) if is_loopback(rest) => Ok(format!("http://{rest}")),
        Some(("http" | "ws", _)) => {
            Err(format!("{base} is not encrypted, and the token would be readable on the way; use https"))
        }
        Some(("https" | "wss", rest)) => Ok(format!("https://{rest}")),
        _ => Err(format!("{base} is no server address; it looks like https://unidesk.example")),
    }
}

fn request(url: &str, token: &str) -> Result<tungstenite::handshake::client::Request, String> {
    let base = http_address(url)?.replacen("http", "ws", 1);
    let mut request = format!("{base}{CONNECT_PATH}")
        .into_client_request()
        .map_err(|error| format!("{base} is no server address: {error}"))?;
    let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| "the token has characters that no token has".to_owned())?;
    bearer.set_sensitive(true);
    request.headers_mut().insert("authorization", bearer);
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
    Ok(request)
}

fn is_loopback(authority: &str) -> bool {
    let host = authority.split('/').next().unwrap_or("");
    let host = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn refused(response: &tungstenite::http::Response<Option<Vec<u8>>>) -> Dialled {
    let status = response.status().as_u16();
    let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    let detail = serde_json::from_str::<serde_json::Value>(&body)
        .ok()
        .and_then(|problem| Some(problem.get("detail")?.as_str()?.to_owned()));
    let retry_after = response
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok())
        .and_then(|s| s.parse().ok())
        .map(Duration::from_secs);
    match (status, retry_after) {
        (401 | 403, _) => Dialled::Unauthorised(detail.unwrap_or_else(|| format!("HTTP {status}"))),
        (_, Some(after)) => Dialled::RetryAfter(after),
        _ => Dialled::Failed(TransportError::Closed(format!("HTTP {status}"))),
    }
}

struct Socket {
    inner: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

fn broken(error: tungstenite::Error) -> TransportError {
    TransportError::Broken(Box::new(error))
}

impl Stream for Socket {
    type Item = Result<Message, TransportError>;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.inner).poll_next(context)) {
                Some(Ok(tungstenite::Message::Text(text))) => Some(Ok(Message::Text(text.as_str().to_owned()))),
                Some(Ok(tungstenite::Message::Binary(bytes))) => Some(Ok(Message::Binary(bytes))),
                Some(Ok(tungstenite::Message::Close(frame))) => {
                    let reason = frame.map_or_else(
                        || "no reason given".to_owned(),
                        |frame| format!("{} {}", frame.code, frame.reason),
                    );
                    Some(Err(TransportError::Closed(reason)))
                }
                // Answered by tungstenite itself.
                Some(Ok(_)) => continue,
                Some(Err(error)) => Some(Err(broken(error))),
                None => None,
            });
        }
    }
}

impl Sink<Message> for Socket {
    type Error = TransportError;
    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Pin::new(&mut self.inner).poll_ready(context).map_err(broken)
    }
    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), TransportError> {
        let message = match message {
            Message::Text(text) => tungstenite::Message::text(text),
            Message::Binary(bytes) => tungstenite::Message::binary(bytes),
        };
        Pin::new(&mut self.inner).start_send(message).map_err(broken)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Pin::new(&mut self.inner).poll_flush(context).map_err(broken)
    }
    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Pin::new(&mut self.inner).poll_close(context).map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_travels_in_plain_text_to_another_machine() {
        for good in [
            "http://127.0.0.1:7700",
            "ws://localhost:1/",
            "http://[::1]:7700",
            "https://unidesk.example",
            "wss://unidesk.example:8443",
        ] {
            let request = request(good, "t").expect(good);
            assert!(request.uri().path() == CONNECT_PATH, "{good}: {}", request.uri());
        }
        for bad in [
            "http://unidesk.example",
            "ws://192.0.2.1:7700",
            "http://127.0.0.1.evil.example",
            "http://localhost.evil.example",
            "ftp://x",
            "x",
            "",
        ] {
            assert!(request(bad, "t").is_err(), "{bad}");
        }
    }
}

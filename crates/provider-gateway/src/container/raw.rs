//! One HTTP request straight over Docker's socket. Builds go this way: bollard does not decode BuildKit's trace without pulling in
//! its whole gRPC stack.

use super::docker::{DockerError, Engine};
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::{
    Method, Request, Response,
    body::{Frame, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, task::JoinSet};

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;

/// A response that is still arriving. Dropping it closes the connection, which Docker takes as a cancel.
pub(super) struct Arriving {
    response: Response<Incoming>,
    buffer: BytesMut,
    _connection: JoinSet<()>,
}

/// A line of JSON longer than this is not from Docker.
const MAX_LINE_BYTES: usize = 16 << 20;

pub(super) async fn send(
    engine: &Engine,
    method: Method,
    path: &str,
    body: BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>,
) -> Result<Arriving, DockerError> {
    let socket = UnixStream::connect(engine.socket()).await.map_err(|error| engine.away(&error))?;
    let (mut sender, connection) =
        http1::handshake::<_, Body>(TokioIo::new(socket)).await.map_err(|error| engine.away(&error))?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // What goes wrong here, the request or the body reports.
        let _ = connection.await;
    });
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "docker")
        .header("content-type", "application/x-tar")
        .body(StreamBody::new(body))
        .map_err(|error| DockerError::Garbled(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| engine.away(&error))?;
    let mut arriving = Arriving { response, buffer: BytesMut::new(), _connection: driver };
    if arriving.response.status().is_success() {
        return Ok(arriving);
    }
    let status = arriving.response.status().as_u16();
    let text = Limited::new(arriving.response.body_mut(), 1 << 20).collect().await.map(|body| body.to_bytes());
    let text = text.unwrap_or_default();
    let message = serde_json::from_slice::<serde_json::Value>(&text)
        .ok()
        .and_then(|body| body.get("message")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(&text).into_owned());
    Err(DockerError::Refused { status, message })
}

impl Arriving {
    /// The next bytes, as they come; None at the end of the response.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            match self.response.body_mut().frame().await {
                Some(frame) => match frame?.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => {}
                },
                None => return Ok(None),
            }
        }
    }

    /// The next line without its end; None at the end of the response.
    pub(super) async fn line(&mut self, engine: &Engine) -> Result<Option<Bytes>, DockerError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1).freeze();
                return Ok(Some(line.slice(..end)));
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(DockerError::Garbled("a line without an end".to_owned()));
            }
            match self.response.body_mut().frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(error)) => return Err(engine.away(&error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Ok(Some(self.buffer.split().freeze())),
            }
        }
    }
}

/// The builder that the daemon names in its ping: `2` is BuildKit, `1` that its owner turned it off; older ones name none.
pub(super) async fn builder_version(engine: &Engine) -> Result<Option<String>, DockerError> {
    let arriving = send(engine, Method::GET, "/_ping", Box::pin(futures::stream::empty())).await?;
    let header = arriving.response.headers().get("builder-version");
    Ok(header.and_then(|value| value.to_str().ok()).map(str::to_owned))
}

/// A value inside a query string.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

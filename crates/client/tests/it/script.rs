//! A server whose every answer is scripted, down to a connection that is cut in the middle.

use serde_json::Value;
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
    pub(crate) fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path.split('?').next() == Some(path)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// The request arrives and nobody answers.
    Cut,
    Json(u16, Value),
    /// Status, extra header lines, body.
    Raw(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// A stream of events that is then cut.
    Events(String),
    /// A stream of events that stays open and silent.
    Held(String),
}

pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    _accepting: JoinSet<()>,
}

impl Server {
    /// `answer` gets each request, and how many came before it.
    pub(crate) async fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::on(listener, answer)
    }

    pub(crate) fn on(listener: TcpListener, answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let url = format!("http://{}", listener.local_addr().expect("a bound socket"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen) = (Arc::new(answer), requests.clone());
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (answer, seen) = (answer.clone(), seen.clone());
                connections.spawn(async move {
                    let _ = serve(socket, &*answer, &seen).await;
                });
            }
        });
        Self { url, requests, _accepting: accepting }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic while held").clone()
    }
}

async fn serve(
    mut socket: TcpStream,
    answer: &(impl Fn(&Request, usize) -> Reply + Send + Sync),
    seen: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let request = read_request(&mut socket).await?;
    let reply = {
        let mut seen = seen.lock().expect("no panic while held");
        seen.push(request.clone());
        answer(&request, seen.len() - 1)
    };
    let (status, headers, body, held) = match reply {
        Reply::Cut => return Ok(()),
        Reply::Json(status, value) => (status, vec![], value.to_string().into_bytes(), false),
        Reply::Raw(status, headers, body) => (status, headers, body, false),
        Reply::Events(text) => (200, vec![("content-type", "text/event-stream".into())], text.into_bytes(), false),
        Reply::Held(text) => (200, vec![("content-type", "text/event-stream".into())], text.into_bytes(), true),
    };
    let is_stream = headers.iter().any(|(_, value)| value == "text/event-stream");
    let mut head = format!("HTTP/1.1 {status} Scripted\r\nconnection: close\r\n");
    for (name, value) in &headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !is_stream && !headers.iter().any(|(name, _)| *name == "content-length") {
        head += &format!("content-length: {}\r\n", body.len());
    }
    socket.write_all(format!("{head}\r\n").as_bytes()).await?;
    socket.write_all(&body).await?;
    socket.flush().await?;
    if held {
        let mut rest = [0; 64];
        while socket.read(&mut rest).await? > 0 {}
    }
    Ok(())
}

async fn read_request(socket: &mut TcpStream) -> std::io::Result<Request> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let mut lines = head.split("\r\n");
            let mut first = lines.next().unwrap_or_default().split(' ');
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length: usize = headers
                .iter()
                .find(|(name, _)| name == "content-length")
                .map_or(0, |(_, value)| value.parse().unwrap_or(0));
            if bytes.len() >= end + 4 + length {
                return Ok(Request {
                    method: first.next().unwrap_or_default().to_owned(),
                    path: first.next().unwrap_or_default().to_owned(),
                    headers,
                    body: String::from_utf8_lossy(&bytes[end + 4..]).into_owned(),
                });
            }
        }
        let n = socket.read(&mut chunk).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..n]);
    }
}

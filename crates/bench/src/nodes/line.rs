//! One WebSocket without a task of its own: it is driven by readiness, and never blocks.

use anyhow::Context as _;
use mio::{Interest, Registry, Token, net::TcpStream};
use protocol::{CONNECT_PATH, MAX_FRAME_BYTES, SUBPROTOCOL, transport::Message};
use std::{
    cell::Cell,
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};
use tokio_tungstenite::tungstenite::{
    self, ClientHandshake, HandshakeError, WebSocket, client::IntoClientRequest, handshake::MidHandshake,
    http::HeaderValue, protocol::WebSocketConfig,
};

/// Bytes that crossed the wire, of all nodes of a process.
#[derive(Debug, Default)]
pub struct Traffic {
    pub bytes_in: Cell<u64>,
    pub bytes_out: Cell<u64>,
    pub frames_in: Cell<u64>,
    pub frames_out: Cell<u64>,
}

fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

pub struct Counted {
    stream: TcpStream,
    traffic: Rc<Traffic>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        add(&self.traffic.bytes_in, read as u64);
        Ok(read)
    }
}
impl Write for Counted {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.stream.write(buffer)?;
        add(&self.traffic.bytes_out, written as u64);
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Where a line stands.
#[derive(Default)]
pub enum Line {
    #[default]
    Down,
    Connecting(Counted),
    Greeting(MidHandshake<ClientHandshake<Counted>>),
    Open(Box<WebSocket<Counted>>),
}

/// What came of driving a line.
pub enum Driven {
    Nothing,
    /// The WebSocket is open: the hello may be sent.
    Opened,
    /// Over; come back after this if the server said so.
    Over(Option<Duration>),
}

impl Line {
    /// Begins to connect.
    pub fn dial(to: SocketAddr, registry: &Registry, token: Token, traffic: &Rc<Traffic>) -> io::Result<Self> {
        let mut stream = TcpStream::connect(to)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self::Connecting(Counted { stream, traffic: traffic.clone() }))
    }

    /// After its socket became ready: goes on as far as it can.
    pub fn drive(&mut self, server: SocketAddr, token: &str, heard: &mut Vec<Message>) -> Driven {
        match std::mem::take(self) {
            Self::Down => Driven::Nothing,
            Self::Connecting(counted) => match is_connected(&counted.stream) {
                Ok(false) => {
                    *self = Self::Connecting(counted);
                    Driven::Nothing
                }
                Ok(true) => self.greet(counted, server, token),
                Err(_) => Driven::Over(None),
            },
            Self::Greeting(handshake) => self.greeted(handshake.handshake()),
            Self::Open(mut socket) => match receive(&mut socket, heard) {
                Ok(()) => {
                    *self = Self::Open(socket);
                    Driven::Nothing
                }
                Err(_) => Driven::Over(None),
            },
        }
    }

    fn greet(&mut self, counted: Counted, server: SocketAddr, token: &str) -> Driven {
        let _ = counted.stream.set_nodelay(true);
        let Ok(request) = request(server, token) else { return Driven::Over(None) };
        // As the agent's own.
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_FRAME_BYTES))
            .max_frame_size(Some(MAX_FRAME_BYTES))
            .read_buffer_size(4 * 1024)
            .write_buffer_size(4 * 1024);
        let outcome = tungstenite::client::client_with_config(request, counted, Some(config));
        self.greeted(outcome)
    }

    fn greeted<R>(
        &mut self,
        outcome: Result<(WebSocket<Counted>, R), HandshakeError<ClientHandshake<Counted>>>,
    ) -> Driven {
        match outcome {
            Ok((socket, _)) => {
                *self = Self::Open(Box::new(socket));
                Driven::Opened
            }
            Err(HandshakeError::Interrupted(handshake)) => {
                *self = Self::Greeting(handshake);
                Driven::Nothing
            }
            Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                let asked = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                Driven::Over(asked.map(Duration::from_secs))
            }
            Err(HandshakeError::Failure(_)) => Driven::Over(None),
        }
    }

    /// Sends all, as far as the socket takes it; the rest goes when it is ready again. Errors: the line is over.
    pub fn send(&mut self, messages: &mut Vec<Message>) -> anyhow::Result<()> {
        let Self::Open(socket) = self else {
            messages.clear();
            return Ok(());
        };
        for message in messages.drain(..) {
            add(&socket.get_ref().traffic.frames_out, 1);
            let message = match message {
                Message::Text(text) => tungstenite::Message::text(text),
                Message::Binary(bytes) => tungstenite::Message::binary(bytes),
            };
            blocked_is_fine(socket.write(message))?;
        }
        blocked_is_fine(socket.flush())
    }
}

fn is_connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

fn receive(socket: &mut WebSocket<Counted>, heard: &mut Vec<Message>) -> anyhow::Result<()> {
    // What could not be written before goes now.
    blocked_is_fine(socket.flush())?;
    loop {
        let message = match socket.read() {
            Ok(tungstenite::Message::Text(text)) => Message::Text(text.as_str().to_owned()),
            Ok(tungstenite::Message::Binary(bytes)) => Message::Binary(bytes),
            Ok(tungstenite::Message::Close(_)) => anyhow::bail!("the server said goodbye"),
            Ok(_) => continue,
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("reading"),
        };
        add(&socket.get_ref().traffic.frames_in, 1);
        heard.push(message);
    }
}

fn blocked_is_fine(outcome: tungstenite::Result<()>) -> anyhow::Result<()> {
    match outcome {
        Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        other => other.context("writing"),
    }
}

fn request(server: SocketAddr, token: &str) -> anyhow::Result<tungstenite::handshake::client::Request> {
    let mut request = format!("ws://{server}{CONNECT_PATH}").into_client_request()?;
    request.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {token}"))?);
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
    Ok(request)
}

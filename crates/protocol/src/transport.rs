//! What a session runs over: whole messages both ways. WebSockets today; a listener for tiny devices can be another.

use bytes::Bytes;

/// One message: a control frame as text, or bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Text(String),
    Binary(Bytes),
}

/// Why a transport ended: for the log, not for decisions.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("the peer closed the connection: {0}")]
    Closed(String),
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the peer was silent for too long")]
    Silent,
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
}

/// Both halves of a transport.
pub trait Transport:
    futures::Stream<Item = Result<Message, TransportError>> + futures::Sink<Message, Error = TransportError> + Unpin + Send
{
}
impl<T> Transport for T where
    T: futures::Stream<Item = Result<Message, TransportError>>
        + futures::Sink<Message, Error = TransportError>
        + Unpin
        + Send
{
}

//! The door: checks the token, upgrades, and makes a [`protocol::transport::Transport`] of the WebSocket.

use super::{
    Settings,
    admission::{Admission, Place},
    beats::Beats,
    session::{self, Caller},
    teller::Teller,
};
use crate::{failed::failed, figures::SessionFigures};
use api_types::Problem;
use axum::{
    Router,
    body::Body,
    extract::{State, WebSocketUpgrade, ws},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use domain::ids::NodeTokenId;
use futures::{Sink, Stream};
use protocol::{
    CONNECT_PATH, MAX_FRAME_BYTES, SUBPROTOCOL, silence_after,
    transport::{Message, TransportError},
};
use service_kit::{ApiError, Service, secret};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use store::{Group, IdleSessions, Logs, Reports, Store, StoreError, Tokens};
use tokio::sync::Semaphore;

/// Sessions of nodes with work that are opened at once: each is a transaction of its own, and others need connections too.
const OPENED_AT_ONCE: usize = 8;

#[derive(Clone)]
pub(super) struct Door {
    pub(super) service: Service,
    pub(super) store: Store,
    pub(super) admission: Admission,
    pub(super) tokens: Group<Tokens>,
    pub(super) idle_sessions: Group<IdleSessions>,
    pub(super) opening: Arc<Semaphore>,
    pub(super) beats: Beats,
    pub(super) reports: Group<Reports>,
    pub(super) urgent_reports: Group<Reports>,
    pub(super) logs: Group<Logs>,
    pub(super) teller: Teller,
    pub(super) settings: Settings,
    pub(super) figures: SessionFigures,
}

impl Door {
    /// With the loops that all sessions share.
    pub(super) fn new(service: Service, store: Store, settings: Settings) -> Self {
        let beats = Beats::start(&service, store.clone());
        let (reports, written) = Group::new(Reports(store.clone()), service.stopping().clone());
        service.spawn("reports", written);
        let (urgent_reports, written) = Group::new(Reports(store.clone()), service.stopping().clone());
        service.spawn("urgent reports", written);
        let (logs, written) = Group::new(Logs(store.clone()), service.stopping().clone());
        service.spawn("logs", written);
        let (tokens, read) = Group::new(Tokens(store.clone()), service.stopping().clone());
        service.spawn("node tokens", read);
        let (idle_sessions, opened) = Group::new(IdleSessions(store.clone()), service.stopping().clone());
        service.spawn("sessions", opened);
        let silence = silence_after(settings.heartbeat);
        let teller = Teller::start(&service, store.clone(), settings.outbox_every, silence);
        let (admission, opening) = (Admission::new(), Arc::new(Semaphore::new(OPENED_AT_ONCE)));
        Self {
            service,
            store,
            admission,
            tokens,
            idle_sessions,
            opening,
            beats,
            reports,
            urgent_reports,
            logs,
            teller,
            settings,
            figures: SessionFigures::new(),
        }
    }
}

pub(super) fn router(door: Door) -> Router {
    Router::new().route(CONNECT_PATH, get(connect)).with_state(door)
}

async fn connect(
    State(door): State<Door>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    let (caller, place) = match let_in(&door, &headers).await {
        Ok(let_in) => let_in,
        Err(refusal) => return refusal.into_response(),
    };
    let Ok(upgrade) = upgrade else {
        return Response::builder()
            .status(StatusCode::UPGRADE_REQUIRED)
            .body(Body::from("agents connect here over WebSocket\n"))
            .unwrap_or_default();
    };
    // Buffers of 4 KiB: an idle session costs 6 KiB instead of 134. tungstenite's own limits are far too large.
    upgrade
        .protocols([SUBPROTOCOL])
        .max_message_size(MAX_FRAME_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .read_buffer_size(4 * 1024)
        .write_buffer_size(4 * 1024)
        .max_write_buffer_size(4 << 20)
        .on_upgrade(move |socket| async move {
            let service = door.service.clone();
            // On the tracker: axum does not wait for upgraded sockets.
            service.spawn("node session", session::run(door, caller, place, Socket { inner: socket }));
        })
}

/// If there is room now. Who it is, is asked before the agent can say its hello: a session that is newer than what is read here was
/// opened after it connected.
async fn let_in(door: &Door, headers: &HeaderMap) -> Result<(Caller, Place), ApiError> {
    let place = door.admission.enter().map_err(|after| {
        let detail = "More nodes connect at this moment than are served at once. The agent comes back by itself.";
        Problem::new("unavailable", detail).retry_after_ms(after.as_millis() as u64)
    })?;
    Ok((authenticate(door, headers).await?, place))
}

/// Which node it is: at the door for agents, and for the routes of nodes.
pub(super) async fn authenticate(door: &Door, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let unknown = || {
        ApiError::new(
            "not-authenticated",
            "This is no node token that the server knows. Make one with: unidesk node-token create --name NODE",
        )
    };
    let text = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .ok_or_else(unknown)?;
    // A mistyped one never reaches the database.
    let (id, hash) = secret::parse(secret::Kind::Node, text).ok_or_else(unknown)?;
    let owner = door.tokens.call(NodeTokenId::from_uuid(id)).await.map_err(|error| away(door, error))?;
    // The same work whether the id is known or not.
    let stored = owner.as_ref().map_or(vec![0; hash.len()], |owner| owner.secret_hash.clone());
    let is_same = secret::same(&stored, &hash);
    match owner {
        Some(owner) if is_same && owner.is_revoked => {
            Err(ApiError::new("not-authenticated", format!("The token of node {} was revoked.", owner.name)))
        }
        Some(owner) if is_same => Ok(Caller { node: owner.node, name: owner.name, newest_epoch: owner.newest_epoch }),
        _ => Err(unknown()),
    }
}

/// While the database is away all nodes ask again and again: they are told when, one after the other.
fn away(door: &Door, error: StoreError) -> ApiError {
    let mut refusal = failed(error);
    if let Some(after) = &mut refusal.0.retry_after_ms {
        *after = (*after).max(door.admission.come_back().as_millis() as u64);
    }
    refusal
}

struct Socket {
    inner: ws::WebSocket,
}

fn broken(error: axum::Error) -> TransportError {
    TransportError::Broken(Box::new(error))
}

impl Stream for Socket {
    type Item = Result<Message, TransportError>;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.inner).poll_next(context)) {
                Some(Ok(ws::Message::Text(text))) => Some(Ok(Message::Text(text.as_str().to_owned()))),
                Some(Ok(ws::Message::Binary(bytes))) => Some(Ok(Message::Binary(bytes))),
                Some(Ok(ws::Message::Close(_))) => Some(Err(TransportError::Closed("the node said goodbye".into()))),
                Some(Ok(ws::Message::Ping(_) | ws::Message::Pong(_))) => continue,
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
            Message::Text(text) => ws::Message::Text(text.into()),
            Message::Binary(bytes) => ws::Message::Binary(bytes),
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
mod tests;

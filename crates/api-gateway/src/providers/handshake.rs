//! Hello and its answer.

use super::{admission::Place, session::Caller, socket::Door};
use domain::ids::{AttemptId, Held};
use futures::{SinkExt, StreamExt};
use protocol::{
    Completeness, Frame, FromNode, Hello, LogOffset, RefusalCode, Refused, Stream, ToNode, Welcome,
    transport::{Message, Transport, TransportError},
    version,
};
use std::{collections::BTreeSet, time::Duration};
use store::{OpenSession, Opened, SessionKey, StoreError, in_time};

/// An agent may take its time to ask Docker what runs; a stranger may not hold a socket for ever.
const HELLO_WITHIN: Duration = Duration::from_secs(30);
/// Whoever takes longer for it keeps nobody else away meanwhile.
const PLACE_KEPT: Duration = Duration::from_secs(2);

/// What an opened session begins with.
pub(super) struct Greeted {
    pub(super) key: SessionKey,
    /// To be stopped and removed there.
    pub(super) stop: Vec<Held>,
    /// What the node has: no assignment of these is sent.
    pub(super) inventory: BTreeSet<AttemptId>,
}

/// Waits for the hello, settles with the store what the node has and should have, and answers. None: the node was refused.
pub(super) async fn greet<T: Transport>(
    door: &Door,
    caller: &Caller,
    place: Place,
    transport: &mut T,
) -> Result<Option<Greeted>, TransportError> {
    let heartbeat = door.settings.heartbeat;
    let mut place = Some(place);
    let first = match tokio::time::timeout(PLACE_KEPT, transport.next()).await {
        Ok(first) => first,
        Err(_) => {
            place = None;
            let rest = HELLO_WITHIN - PLACE_KEPT;
            tokio::time::timeout(rest, transport.next()).await.map_err(|_| TransportError::Silent)?
        }
    };
    let text = match first {
        Some(Ok(Message::Text(text))) => text,
        Some(Ok(Message::Binary(_))) => return Err(TransportError::Protocol("bytes before the hello".into())),
        Some(Err(error)) => return Err(error),
        None => return Err(TransportError::Closed("no hello".into())),
    };
    let hello = match Frame::<FromNode>::decode(&text).map(|frame| frame.message) {
        Ok(FromNode::Hello(hello)) => *hello,
        Ok(_) => {
            return refuse(transport, RefusalCode::BadHello, "The first message must be a hello.", Some(60_000)).await;
        }
        Err(error) => {
            return refuse(
                transport,
                RefusalCode::BadHello,
                &format!("The hello is not understood: {error}."),
                Some(60_000),
            )
            .await;
        }
    };
    let Some(picked) = version::pick(version::SUPPORTED, hello.versions) else {
        let (ours, theirs) = (version::SUPPORTED, hello.versions);
        let detail = format!(
            "This server speaks protocol {} to {}, the agent {} to {}: update the older side.",
            ours.min, ours.max, theirs.min, theirs.max
        );
        return refuse(transport, RefusalCode::IncompatibleVersion, &detail, None).await;
    };
    let opened = match open(door, request(caller, &hello)).await {
        Ok(opened) => opened,
        Err(error) => {
            tracing::warn!(error = %service_kit::lifecycle::Chain(&error), "a session could not be opened");
            let after = door.admission.come_back().as_millis() as u64;
            let detail = "The server can't reach its database.";
            return refuse(transport, RefusalCode::Unknown, detail, Some(after.max(2_000))).await;
        }
    };
    place.into_iter().for_each(Place::served);
    match opened {
        Opened::Revoked => refuse(transport, RefusalCode::Revoked, "The node's token was revoked.", None).await,
        Opened::OtherInstance => {
            tracing::error!(node.id = %caller.node, "a second installation uses this node's token");
            let detail = "Another installation uses this token and is connected. Make a token of its own for this machine, or stop the other one.";
            refuse(transport, RefusalCode::OtherInstance, detail, Some(60_000)).await
        }
        Opened::OtherBoot => {
            tracing::error!(node.id = %caller.node, "a copy of this node is connected, or the node was restarted a moment ago");
            let detail = "The same installation is connected from a machine that was started at another time. If this machine was restarted just now, it is let in as soon as that connection is silent. If one is a copy of the other, delete the copy's data directory and make a token of its own for it.";
            refuse(transport, RefusalCode::OtherInstance, detail, Some(heartbeat.as_millis() as u64)).await
        }
        Opened::Superseded => {
            refuse(transport, RefusalCode::Unknown, "This node has connected anew since.", Some(1_000)).await
        }
        Opened::Forgotten => {
            let detail = "The platform was restored from a backup. Every node has to connect anew.";
            refuse(transport, RefusalCode::Unknown, detail, Some(1_000)).await
        }
        Opened::Session { key, name, draining, stop, orphans, adopted, log_offsets } => {
            if !adopted.is_empty() {
                tracing::info!(node.id = %caller.node, attempts = ?adopted, "what was leased after the backup is taken up again");
            }
            if !orphans.is_empty() {
                tracing::warn!(node.id = %caller.node, attempts = ?orphans,
                    "the node runs what this database has forgotten; it is left to its end, which is kept in rejected_reports as `orphan`");
            }
            let welcome = Welcome {
                version: picked,
                server_version: env!("CARGO_PKG_VERSION").to_owned(),
                node: caller.node,
                name,
                session_epoch: key.epoch,
                heartbeat_ms: heartbeat.as_millis() as u64,
                log_offsets: log_offsets
                    .into_iter()
                    .flat_map(|(attempt, offsets)| offsets_of(attempt, offsets))
                    .collect(),
                draining,
            };
            transport.send(Message::Text(Frame::new(ToNode::Welcome(welcome)).encode())).await?;
            let inventory = hello.inventory.attempts.iter().map(|attempt| attempt.held.attempt).collect();
            Ok(Some(Greeted { key, stop, inventory }))
        }
    }
}

/// Nodes that have nothing are let in together: after an outage all of them come at once.
async fn open(door: &Door, hello: OpenSession) -> Result<Opened, StoreError> {
    if hello.attempts.is_empty()
        && let Some(opened) = in_time(door.idle_sessions.call(hello.clone())).await?
    {
        return Ok(opened);
    }
    let _turn = door.opening.acquire().await.map_err(|_| StoreError::Stopping)?;
    in_time(door.store.open_session(&hello)).await
}

fn request(caller: &Caller, hello: &Hello) -> OpenSession {
    let complete = |completeness: &Completeness| *completeness == Completeness::Complete;
    OpenSession {
        node: caller.node,
        instance: hello.instance,
        facts: hello.facts.clone(),
        metrics: hello.metrics.clone(),
        attempts: hello.inventory.attempts.clone(),
        complete_executors: hello
            .inventory
            .executors
            .iter()
            .filter(|(_, how)| complete(how))
            .map(|(name, _)| name.clone())
            .collect(),
        newest_epoch: caller.newest_epoch,
    }
}

fn offsets_of(attempt: domain::ids::AttemptId, offsets: Vec<i64>) -> impl Iterator<Item = LogOffset> {
    Stream::ALL.into_iter().zip(offsets).map(move |(stream, offset)| LogOffset {
        attempt,
        stream,
        next_offset: offset as u64,
    })
}

async fn refuse<T: Transport>(
    transport: &mut T,
    code: RefusalCode,
    detail: &str,
    retry_after_ms: Option<u64>,
) -> Result<Option<Greeted>, TransportError> {
    let refused = Refused { code, detail: detail.to_owned(), retry_after_ms };
    transport.send(Message::Text(Frame::new(ToNode::Refused(refused)).encode())).await?;
    transport.close().await?;
    Ok(None)
}

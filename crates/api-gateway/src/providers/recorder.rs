//! Records what a node says, together with what other nodes say at that moment, and acknowledges what is committed. While the
//! database is away nothing is acknowledged and nothing is lost: the node holds it.

use super::{acks::Acks, outbound::Outbound, socket::Door, teller::Listening};
use futures::future::BoxFuture;
use protocol::{LogFrame, LogPayload, Stream, ToNode};
use std::{
    collections::VecDeque,
    task::{Context, Poll},
    time::Duration,
};
use store::{
    Group, LogAck, LogPiece, NodeReport, ReportVerdict, Reports, SessionKey, SessionPieces, SessionReports, StoreError,
};

const REPORTS_PER_BATCH: usize = 128;
const LOG_BYTES_PER_BATCH: usize = 1 << 20;
/// Reports and log pieces that may wait for the database. An honest agent keeps far below: it sends what its window allows.
const QUEUE: usize = 8_192;

/// What a session records, one batch after the other in the order in which it came. An idle one holds no memory.
pub(super) struct Recorder<'a, T> {
    waiting: VecDeque<T>,
    /// The batch that is being written. Errors: why the session must end.
    writing: Option<BoxFuture<'a, Result<(), String>>>,
}

impl<T> Default for Recorder<'_, T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), writing: None }
    }
}

impl<'a, T> Recorder<'a, T> {
    /// False: too much is waiting, which an honest agent can't cause.
    pub(super) fn take(&mut self, one: T) -> bool {
        let has_room = self.waiting.len() < QUEUE;
        if has_room {
            self.waiting.push_back(one);
        }
        has_room
    }

    /// Goes on as far as it can. `write` is given all that waits, and takes a batch of it.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        write: impl Fn(&mut VecDeque<T>) -> BoxFuture<'a, Result<(), String>>,
    ) -> Result<(), String> {
        loop {
            if self.writing.is_none() && !self.waiting.is_empty() {
                self.writing = Some(write(&mut self.waiting));
                if self.waiting.is_empty() {
                    self.waiting = VecDeque::new();
                }
            }
            let Some(writing) = &mut self.writing else { return Ok(()) };
            match writing.as_mut().poll(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(written) => {
                    self.writing = None;
                    written?;
                }
            }
        }
    }
}

/// A batch of what waits, to be recorded by `group` and acknowledged. Errors: why the session must end.
pub(super) async fn record_reports(
    group: &Group<Reports>,
    acks: &Acks,
    key: SessionKey,
    batch: Vec<(u64, NodeReport)>,
    outbound: &Outbound,
    listening: &Listening,
) -> Result<(), String> {
    let reports: Vec<NodeReport> = batch.iter().map(|(_, report)| report.clone()).collect();
    let call = SessionReports { session: key, reports };
    let verdicts = until_available(|| group.call(call.clone())).await.map_err(|error| {
        tracing::error!(node.id = %key.node, error = %service_kit::lifecycle::Chain(&error), "reports could not be recorded");
        "its reports could not be recorded".to_owned()
    })?;
    listening.settle(batch.iter().map(|(_, report)| report.held.attempt));
    for ((_, report), verdict) in batch.iter().zip(&verdicts) {
        match verdict {
            ReportVerdict::StaleSession => return Err("a newer session of this node took over".to_owned()),
            // It is to be stopped there; a release is the answer to that already.
            ReportVerdict::Fenced if report.report.kind() != "released" => {
                outbound.send(ToNode::Stop { held: report.held })
            }
            ReportVerdict::Conflict => {
                tracing::warn!(attempt.id = %report.held.attempt, "an attempt ended twice, differently; the first end counts")
            }
            ReportVerdict::Fenced | ReportVerdict::Orphan | ReportVerdict::Recorded | ReportVerdict::Repeated => {}
        }
    }
    if let Some(up_to) = acks.recorded(batch.iter().map(|(seq, _)| *seq)) {
        outbound.send(ToNode::Ack { up_to });
    }
    Ok(())
}

/// The first of what waits, in the order in which they came.
pub(super) fn batch_of_reports(waiting: &mut VecDeque<(u64, NodeReport)>) -> Vec<(u64, NodeReport)> {
    waiting.drain(..waiting.len().min(REPORTS_PER_BATCH)).collect()
}

pub(super) fn batch_of_pieces(waiting: &mut VecDeque<LogFrame>) -> Vec<LogPiece> {
    let mut bytes = 0;
    let mut pieces = Vec::new();
    while bytes < LOG_BYTES_PER_BATCH
        && let Some(frame) = waiting.pop_front()
    {
        bytes += frame.payload.len() as usize;
        pieces.push(piece(frame));
    }
    pieces
}

/// Records pieces of logs and acknowledges them. Errors: why the session must end.
pub(super) async fn record_logs(
    door: &Door,
    key: SessionKey,
    pieces: Vec<LogPiece>,
    outbound: &Outbound,
) -> Result<(), String> {
    let call = SessionPieces { session: key, pieces };
    let acks = until_available(|| door.logs.call(call.clone())).await.map_err(|error| {
        tracing::error!(node.id = %key.node, error = %service_kit::lifecycle::Chain(&error), "a log could not be recorded");
        "its log could not be recorded".to_owned()
    })?;
    door.figures.log_bytes.increment(call.pieces.iter().map(|piece| piece.data.len() as u64).sum());
    // Nothing that is sent in this session can fill the hole: the node says it again in its next.
    let is_beyond = |piece: &LogPiece| {
        let of = |ack: &&LogAck| (ack.attempt, ack.stream) == (piece.held.attempt, piece.stream);
        acks.iter().find(of).is_some_and(|ack| piece.start > ack.next_offset)
    };
    if call.pieces.iter().any(is_beyond) {
        return Err("a piece of a log was lost on its way".to_owned());
    }
    for ack in acks {
        if let Some(stream) = Stream::from_number(ack.stream) {
            outbound.send(ToNode::LogAck { attempt: ack.attempt, stream, next_offset: ack.next_offset });
        }
    }
    Ok(())
}

fn piece(frame: LogFrame) -> LogPiece {
    let (data, gap) = match frame.payload {
        LogPayload::Bytes(bytes) => (bytes, None),
        LogPayload::Gap(length) => (bytes::Bytes::new(), Some(length)),
    };
    LogPiece { held: frame.held, stream: frame.stream.number(), start: frame.offset, data, gap }
}

/// Tries until the database answers; only other errors come back.
async fn until_available<T, F>(mut call: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut wait = Duration::from_millis(50);
    loop {
        match call().await {
            Err(error) if error.is_temporary() => {
                tracing::debug!(error = %service_kit::lifecycle::Chain(&error), "the database is away; the node keeps what it said");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(2));
            }
            answer => return answer,
        }
    }
}

//! Records what a node says, together with what other nodes say at that moment, and acknowledges what is committed. While the
//! database is away nothing is acknowledged and nothing is lost: the node holds it.

use super::{outbound::Outbound, teller::Listening};
use protocol::{LogFrame, LogPayload, Stream, ToNode};
use std::time::Duration;
use store::{
    Group, LogAck, LogPiece, Logs, NodeReport, ReportVerdict, Reports, SessionKey, SessionPieces, SessionReports,
    StoreError,
};
use tokio::sync::mpsc;

const REPORTS_PER_BATCH: usize = 128;
const LOG_BYTES_PER_BATCH: usize = 1 << 20;

/// Records reports in the order in which they came. Returns why the session must end.
pub(super) async fn record_reports(
    group: &Group<Reports>,
    key: SessionKey,
    mut queue: mpsc::Receiver<(u64, NodeReport)>,
    outbound: &Outbound,
    listening: &Listening,
) -> String {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, REPORTS_PER_BATCH).await > 0 {
        let reports: Vec<NodeReport> = batch.iter().map(|(_, report)| report.clone()).collect();
        let call = SessionReports { session: key, reports };
        let verdicts = match until_available(|| group.call(call.clone())).await {
            Ok(verdicts) => verdicts,
            Err(error) => {
                tracing::error!(node.id = %key.node, error = %service_kit::lifecycle::Chain(&error), "reports could not be recorded");
                return "its reports could not be recorded".to_owned();
            }
        };
        listening.settle(batch.iter().map(|(_, report)| report.held.attempt));
        for ((_, report), verdict) in batch.iter().zip(&verdicts) {
            match verdict {
                ReportVerdict::StaleSession => return "a newer session of this node took over".to_owned(),
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
        if let Some((seq, _)) = batch.last() {
            outbound.send(ToNode::Ack { up_to: *seq });
        }
        batch.clear();
    }
    "the session ended".to_owned()
}

/// Records log pieces. Returns why the session must end.
pub(super) async fn record_logs(
    group: &Group<Logs>,
    key: SessionKey,
    mut queue: mpsc::Receiver<LogFrame>,
    outbound: &Outbound,
) -> String {
    while let Some(first) = queue.recv().await {
        let mut bytes = first.payload.len() as usize;
        let mut pieces = vec![piece(first)];
        while bytes < LOG_BYTES_PER_BATCH
            && let Ok(frame) = queue.try_recv()
        {
            bytes += frame.payload.len() as usize;
            pieces.push(piece(frame));
        }
        let call = SessionPieces { session: key, pieces };
        let acks = match until_available(|| group.call(call.clone())).await {
            Ok(acks) => acks,
            Err(error) => {
                tracing::error!(node.id = %key.node, error = %service_kit::lifecycle::Chain(&error), "a log could not be recorded");
                return "its log could not be recorded".to_owned();
            }
        };
        // Nothing that is sent in this session can fill the hole: the node says it again in its next.
        let is_beyond = |piece: &LogPiece| {
            let of = |ack: &&LogAck| (ack.attempt, ack.stream) == (piece.held.attempt, piece.stream);
            acks.iter().find(of).is_some_and(|ack| piece.start > ack.next_offset)
        };
        if call.pieces.iter().any(is_beyond) {
            return "a piece of a log was lost on its way".to_owned();
        }
        for ack in acks {
            if let Some(stream) = Stream::from_number(ack.stream) {
                outbound.send(ToNode::LogAck { attempt: ack.attempt, stream, next_offset: ack.next_offset });
            }
        }
    }
    "the session ended".to_owned()
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

//! What a gateway records: reports, logs and heartbeats, each acknowledged only after its commit.

use crate::{
    Ms, Sometimes,
    fakes::{
        database::{Answer, Call},
        gateway::Tag,
        net::LineId,
        store::{Piece, ReportVerdict, StoreError},
    },
    world::{GatewayEvent, World},
};
use domain::attempt::Report;
use protocol::{LogFrame, LogPayload, Stream, ToNode};

const FIRST_WAIT_MS: Ms = 50;
const LONGEST_WAIT_MS: Ms = 2_000;

impl World {
    pub(crate) fn record_reports(&mut self, g: usize, line: LineId) {
        let most = self.plan.knobs.reports_per_batch;
        let Some(session) = self.gateways[g].sessions.get_mut(&line) else { return };
        // One batch at a time, so that the order is the node's.
        if !session.recording.is_empty() || session.reports.is_empty() {
            return;
        }
        let count = session.reports.len().min(most);
        session.recording = session.reports.drain(..count).collect();
        session.reports_wait_ms = FIRST_WAIT_MS;
        self.record_batch(g, line);
    }

    pub(crate) fn record_batch(&mut self, g: usize, line: LineId) {
        let Some(session) = self.gateways[g].sessions.get_mut(&line) else { return };
        let Some(key) = session.key else { return };
        let batch = session.recording.iter().map(|(_, report)| report.clone()).collect();
        self.gateway_calls(g, Tag::Reports(line), Call::RecordReports { key, batch });
    }

    pub(crate) fn reports_recorded(&mut self, g: usize, line: LineId, answer: Result<Answer, StoreError>) {
        let Some(session) = self.gateways[g].sessions.get_mut(&line) else { return };
        let Ok(Answer::Recorded(verdicts)) = answer else {
            session.reports_wait_ms = (session.reports_wait_ms * 2).min(LONGEST_WAIT_MS);
            let wait = session.reports_wait_ms;
            return self.gateway_after(g, wait, GatewayEvent::ReportsAgain(line));
        };
        let batch = std::mem::take(&mut session.recording);
        let mut stops = Vec::new();
        for ((_, item), verdict) in batch.iter().zip(&verdicts) {
            match verdict {
                ReportVerdict::StaleSession => {
                    self.hit(Sometimes::StaleSessionDropped);
                    return self.session_over(g, line, "a newer session took over");
                }
                ReportVerdict::Fenced if item.report != Report::Released => {
                    self.hit(Sometimes::FencedReportRejected);
                    stops.push(item.held);
                }
                ReportVerdict::Repeated => self.hit(Sometimes::DuplicateReportAcked),
                ReportVerdict::Conflict => self.hit(Sometimes::ConflictAcked),
                ReportVerdict::Orphan => self.hit(Sometimes::OrphanKept),
                ReportVerdict::Fenced | ReportVerdict::Recorded => {}
            }
        }
        for held in stops {
            self.send_down(line, ToNode::Stop { held });
        }
        if let Some((seq, _)) = batch.last() {
            self.send_down(line, ToNode::Ack { up_to: *seq });
        }
        self.record_reports(g, line);
    }

    pub(crate) fn record_logs(&mut self, g: usize, line: LineId) {
        let Some(session) = self.gateways[g].sessions.get_mut(&line) else { return };
        if !session.logging.is_empty() || session.logs.is_empty() {
            return;
        }
        session.logging = session.logs.drain(..).map(piece).collect();
        session.logs_wait_ms = FIRST_WAIT_MS;
        self.log_batch(g, line);
    }

    pub(crate) fn log_batch(&mut self, g: usize, line: LineId) {
        let Some(session) = self.gateways[g].sessions.get_mut(&line) else { return };
        let Some(key) = session.key else { return };
        let pieces = session.logging.clone();
        self.gateway_calls(g, Tag::Logs(line), Call::AppendLogs { key, pieces });
    }

    pub(crate) fn logs_recorded(&mut self, g: usize, line: LineId, answer: Result<Answer, StoreError>) {
        let Some(session) = self.gateways[g].sessions.get_mut(&line) else { return };
        let Ok(Answer::Logged(acks)) = answer else {
            session.logs_wait_ms = (session.logs_wait_ms * 2).min(LONGEST_WAIT_MS);
            let wait = session.logs_wait_ms;
            return self.gateway_after(g, wait, GatewayEvent::LogsAgain(line));
        };
        session.logging.clear();
        for ack in acks {
            let stream = Stream::from_number(ack.stream).expect("a piece came with a stream of ours");
            self.send_down(line, ToNode::LogAck { attempt: ack.attempt, stream, next_offset: ack.next_offset });
        }
        self.record_logs(g, line);
    }

    /// Heartbeats of all nodes of this gateway, in one statement.
    pub(crate) fn write_beats(&mut self, g: usize) {
        let gateway = &mut self.gateways[g];
        if gateway.beats.is_empty() || !gateway.beats_in_flight.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut gateway.beats);
        gateway.beats_in_flight = waiting.iter().map(|(line, key, _, number)| (*line, *key, *number)).collect();
        let beats = waiting.into_iter().map(|(_, key, metrics, _)| (key, metrics)).collect();
        self.gateway_calls(g, Tag::Beats, Call::Heartbeat(beats));
    }

    pub(crate) fn beats_written(&mut self, g: usize, answer: Result<Answer, StoreError>) {
        let waiting = std::mem::take(&mut self.gateways[g].beats_in_flight);
        let Ok(Answer::Counted(counted)) = answer else {
            // Not answered: what a node has not heard did not happen.
            return self.gateway_after(g, 200, GatewayEvent::BeatsAgain);
        };
        for (line, key, number) in waiting {
            if counted.contains(&key) {
                self.send_down(line, ToNode::Beat { number });
            } else {
                self.hit(Sometimes::StaleSessionDropped);
                self.session_over(g, line, "a newer session took over");
            }
        }
        self.write_beats(g);
    }
}

fn piece(frame: LogFrame) -> Piece {
    let (data, gap) = match frame.payload {
        LogPayload::Bytes(bytes) => (bytes, None),
        LogPayload::Gap(length) => (bytes::Bytes::new(), Some(length)),
    };
    Piece { held: frame.held, stream: frame.stream.number(), start: frame.offset, data, gap }
}

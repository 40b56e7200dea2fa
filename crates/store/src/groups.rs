//! The operations that are written in groups.

use crate::{
    LogAck, NewTask, NodeTokenOwner, OpenSession, Opened, ReportVerdict, SessionPieces, SessionReports, Store,
    StoreError, Submission, group::Operation,
};
use domain::ids::NodeTokenId;
use std::sync::Arc;

/// Submissions: one call is one request, with one task or a batch.
pub struct Submissions(pub Store);

impl Operation for Submissions {
    const NAME: &'static str = "submissions";
    type Call = Arc<[NewTask]>;
    type Answer = Submission;
    const MAX_WEIGHT: usize = 512;

    fn weight(call: &Arc<[NewTask]>) -> usize {
        call.len()
    }

    async fn write(&self, calls: &[Arc<[NewTask]>]) -> Result<Vec<Submission>, StoreError> {
        let Submission { at, slugs, answers } =
            self.0.submit(&calls.iter().flat_map(|call| call.iter()).collect::<Vec<_>>()).await?;
        let mut answers = answers.into_iter();
        let of = |call: &Arc<[NewTask]>| answers.by_ref().take(call.len()).collect();
        Ok(calls.iter().map(of).map(|answers| Submission { at, slugs: slugs.clone(), answers }).collect())
    }
}

/// What nodes report.
pub struct Reports(pub Store);

impl Operation for Reports {
    const NAME: &'static str = "reports";
    type Call = SessionReports;
    type Answer = Vec<ReportVerdict>;
    const MAX_WEIGHT: usize = 512;
    /// A session has one call at a time, so the order of its reports is kept.
    const WRITERS: usize = 2;

    fn weight(call: &SessionReports) -> usize {
        call.reports.len()
    }

    async fn write(&self, calls: &[SessionReports]) -> Result<Vec<Vec<ReportVerdict>>, StoreError> {
        self.0.record_reports_of_many(calls).await
    }
}

/// What nodes' tasks write.
pub struct Logs(pub Store);

impl Operation for Logs {
    const NAME: &'static str = "logs";
    type Call = SessionPieces;
    type Answer = Vec<LogAck>;
    /// Bytes.
    const MAX_WEIGHT: usize = 1 << 20;

    fn weight(call: &SessionPieces) -> usize {
        /// A piece without bytes is a row all the same.
        const ROW: usize = 100;
        call.pieces.iter().map(|piece| piece.data.len() + ROW).sum()
    }

    async fn write(&self, calls: &[SessionPieces]) -> Result<Vec<Vec<LogAck>>, StoreError> {
        self.0.append_logs_of_many(calls).await
    }
}

/// Whom tokens let in, for nodes that dial at the same moment. Each is read after it was asked for, so one that was revoked before
/// lets nobody in.
pub struct Tokens(pub Store);

impl Operation for Tokens {
    const NAME: &'static str = "tokens";
    type Call = NodeTokenId;
    type Answer = Option<NodeTokenOwner>;
    const MAX_WEIGHT: usize = 512;

    fn weight(_: &NodeTokenId) -> usize {
        1
    }

    async fn write(&self, calls: &[NodeTokenId]) -> Result<Vec<Option<NodeTokenOwner>>, StoreError> {
        self.0.node_tokens(calls).await
    }
}

/// Sessions of nodes that have nothing. No answer: nothing was changed, and [`Store::open_session`] is to be asked.
pub struct IdleSessions(pub Store);

impl Operation for IdleSessions {
    const NAME: &'static str = "sessions";
    type Call = OpenSession;
    type Answer = Option<Opened>;
    const MAX_WEIGHT: usize = 128;

    fn weight(_: &OpenSession) -> usize {
        1
    }

    async fn write(&self, calls: &[OpenSession]) -> Result<Vec<Option<Opened>>, StoreError> {
        self.0.open_idle_sessions(calls).await
    }
}

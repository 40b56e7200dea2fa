//! The operations that are written in groups.

use crate::{
    LogAck, NewTask, ReportVerdict, SessionPieces, SessionReports, Store, StoreError, Submission, group::Operation,
};
use std::sync::Arc;

/// Submissions: one call is one request, with one task or a batch.
pub struct Submissions(pub Store);

impl Operation for Submissions {
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
    type Call = SessionReports;
    type Answer = Vec<ReportVerdict>;
    const MAX_WEIGHT: usize = 512;

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

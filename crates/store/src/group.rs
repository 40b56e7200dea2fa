//! Group commit: concurrent calls of one operation become one transaction, so that many callers share one round trip and one
//! flush of the disk. A call that comes alone is written at once: an idle platform waits for nothing.

use crate::{StoreError, figures, limits::in_time};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use std::{collections::VecDeque, panic::AssertUnwindSafe, sync::Arc};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Calls that may wait for their turn.
const WAITING: usize = 4_096;
/// So often a transaction that PostgreSQL broke off for another's sake is begun again.
const ATTEMPTS: u32 = 3;

/// An operation that takes many calls at once.
pub trait Operation: Send + Sync + 'static {
    type Call: Send + Sync;
    type Answer: Send;

    /// What a group may weigh: rows for most, bytes for logs.
    const MAX_WEIGHT: usize;
    /// What its sizes are counted under.
    const NAME: &'static str;
    /// Groups that are written at once. More than one where no call depends on another that has no answer yet: while one waits for the
    /// disk, the next is written.
    const WRITERS: usize = 1;
    fn weight(call: &Self::Call) -> usize;
    /// Writes all or nothing, and answers each call in their order.
    fn write(&self, calls: &[Self::Call]) -> impl Future<Output = Result<Vec<Self::Answer>, StoreError>> + Send;
}

struct Waiting<O: Operation> {
    call: O::Call,
    answer: oneshot::Sender<Result<O::Answer, StoreError>>,
}

/// Where calls are handed in. Cheap to clone.
pub struct Group<O: Operation> {
    queue: mpsc::Sender<Waiting<O>>,
}

impl<O: Operation> Clone for Group<O> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone() }
    }
}

impl<O: Operation> Group<O> {
    /// The group, and the loop that writes: to be run until it ends, which is after `stop` and the last call handed in before.
    pub fn new(operation: O, stop: CancellationToken) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (queue, calls) = mpsc::channel(WAITING);
        (Self { queue }, run(operation, calls, stop))
    }

    /// Waits for a place, then for the answer. Dropped while it waits, the call is written all the same.
    pub async fn call(&self, call: O::Call) -> Result<O::Answer, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Waiting { call, answer }).await.map_err(|_| StoreError::Stopping)?;
        answered.await.map_err(|_| StoreError::Stopping)?
    }

    /// As [`Group::call`], but refuses with [`StoreError::Busy`] when too many wait already.
    pub async fn call_unless_busy(&self, call: O::Call) -> Result<O::Answer, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Waiting { call, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Stopping,
        })?;
        answered.await.map_err(|_| StoreError::Stopping)?
    }
}

async fn run<O: Operation>(operation: O, mut queue: mpsc::Receiver<Waiting<O>>, stop: CancellationToken) {
    let mut writing = FuturesUnordered::new();
    let sizes = figures::group(O::NAME);
    loop {
        while writing.len() >= O::WRITERS {
            writing.next().await;
        }
        let first = tokio::select! {
            biased;
            Some(()) = writing.next() => continue,
            first = queue.recv() => first,
            () = stop.cancelled() => {
                // Nobody new is let in; who waits is served.
                queue.close();
                queue.recv().await
            }
        };
        let Some(first) = first else { break };
        let mut weight = O::weight(&first.call);
        let mut group = vec![first];
        while weight < O::MAX_WEIGHT
            && let Ok(next) = queue.try_recv()
        {
            weight += O::weight(&next.call);
            group.push(next);
        }
        sizes.record(group.len() as f64);
        let (calls, answers): (Vec<_>, Vec<_>) = group.into_iter().map(|it| (it.call, it.answer)).unzip();
        let operation = &operation;
        writing.push(async move { write(operation, &calls, answers).await });
    }
    while writing.next().await.is_some() {}
}

/// A group that fails for the sake of one call is written in halves, until that one is alone with its error.
async fn write<O: Operation>(
    operation: &O,
    calls: &[O::Call],
    answers: Vec<oneshot::Sender<Result<O::Answer, StoreError>>>,
) {
    let mut parts = VecDeque::from([(calls, answers)]);
    while let Some((calls, mut answers)) = parts.pop_front() {
        match write_once(operation, calls).await {
            // Who is gone needs no answer.
            Ok(results) => answers.into_iter().zip(results).for_each(|(answer, result)| drop(answer.send(Ok(result)))),
            Err(error) if calls.len() > 1 && error.may_be_of_one_call() => {
                let half = calls.len() / 2;
                let second = answers.split_off(half);
                parts.push_front((&calls[half..], second));
                parts.push_front((&calls[..half], answers));
            }
            Err(error) => {
                let error = Arc::new(error);
                answers.into_iter().for_each(|answer| drop(answer.send(Err(StoreError::Shared(error.clone())))));
            }
        }
    }
}

async fn write_once<O: Operation>(operation: &O, calls: &[O::Call]) -> Result<Vec<O::Answer>, StoreError> {
    let mut attempt = 1;
    loop {
        // One writer serves all callers of a process: neither a write that nobody answers nor one that panics may end it.
        let written = AssertUnwindSafe(in_time(operation.write(calls))).catch_unwind().await;
        match written.unwrap_or(Err(StoreError::Panicked)) {
            Err(error) if error.is_conflict() && attempt < ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests;

//! One build at a time per image. Who comes second waits and watches; when the builder is cancelled, a waiter goes on.

use crate::{executor::Failure, log::AttemptLog};
use bytes::Bytes;
use domain::ids::TaskId;
use protocol::Stream;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, broadcast};

#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<String, Weak<Flight>>>);

pub(super) struct Flight {
    turn: Arc<AsyncMutex<()>>,
    lines: broadcast::Sender<Bytes>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    builds: u64,
    builder: Option<TaskId>,
    /// The number of the build that failed last, and why.
    failed: Option<(u64, Failure)>,
}

/// The right to build. Dropped with the builder's future.
pub(super) struct Turn {
    pub(super) flight: Arc<Flight>,
    _guard: OwnedMutexGuard<()>,
}

impl Flights {
    pub(super) fn of(&self, tag: &str) -> Arc<Flight> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = flights.get(tag).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(Flight {
            turn: Arc::default(),
            // A waiter that can't keep up loses lines of somebody else's log, never its own.
            lines: broadcast::Sender::new(1_024),
            state: Mutex::default(),
        });
        flights.insert(tag.to_owned(), Arc::downgrade(&flight));
        flight
    }
}

impl Flight {
    /// Waits for the turn. Errors: the build that was waited for failed, and this one would too.
    pub(super) async fn wait(self: &Arc<Self>, log: &AttemptLog, task: TaskId) -> Result<Turn, Failure> {
        if let Ok(guard) = self.turn.clone().try_lock_owned() {
            return Ok(self.begin(guard, task));
        }
        let mut lines = self.lines.subscribe();
        let (waited_for, builder) = {
            let state = self.lock();
            (state.builds, state.builder)
        };
        let whose = builder.map_or_else(String::new, |task| format!(" by task {}", task.short()));
        log.note(&format!("waiting for the build of the same image{whose}")).await;
        let turn = self.turn.clone().lock_owned();
        tokio::pin!(turn);
        let guard = loop {
            tokio::select! {
                biased;
                line = lines.recv() => match line {
                    Ok(line) => log.append(Stream::Build, line).await,
                    Err(broadcast::error::RecvError::Lagged(_)) => log.note("part of the build log was left out").await,
                    Err(broadcast::error::RecvError::Closed) => break turn.await,
                },
                guard = &mut turn => break guard,
            }
        };
        let failed = self.lock().failed.clone();
        match failed {
            Some((number, failure)) if number >= waited_for => Err(failure),
            _ => Ok(self.begin(guard, task)),
        }
    }

    fn begin(self: &Arc<Self>, guard: OwnedMutexGuard<()>, task: TaskId) -> Turn {
        let mut state = self.lock();
        state.builds += 1;
        state.builder = Some(task);
        Turn { flight: self.clone(), _guard: guard }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    pub(super) fn fail(&self, failure: &Failure) {
        let mut state = self.flight.lock();
        state.failed = Some((state.builds, failure.clone()));
    }
    /// Build output: for the builder's log and for all who wait.
    pub(super) async fn say(&self, log: &AttemptLog, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let bytes = Bytes::from(bytes);
        // Nobody waiting is no error.
        let _ = self.flight.lines.send(bytes.clone());
        log.append(Stream::Build, bytes).await;
    }
}

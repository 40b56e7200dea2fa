//! A turn of the runtime: events that are known at one time. The agent takes them one after the other; what they change is one write and
//! one sync for all of them, and only then what follows from them is done. So a busy node syncs no more often than its disk can.

use super::{Runtime, boot_millis};
use crate::{
    agent::{Action, Event, Record},
    executor::Failure,
    log::AttemptLog,
};
use domain::{
    attempt::Report,
    ids::{AttemptId, Held},
};
use protocol::FromNode;
use std::{collections::BTreeMap, io};

#[derive(Default)]
pub(super) struct Turn {
    steps: Vec<Step>,
}

/// What came of one event.
struct Step {
    /// It was a new assignment. Where the disk does not take it, nothing of it is done.
    assigned: Option<Held>,
    /// It waits for room: whatever happens next may make some.
    waits: bool,
    records: Vec<Record>,
    actions: Vec<Action>,
}

impl Turn {
    /// An assignment may still be refused by the disk. What is said of it later must find that decided, and so must what lets it begin.
    pub(super) fn must_end_before(&self, event: &Event) -> bool {
        let may_concern = |attempt: Option<AttemptId>| {
            let mut assigned = self.steps.iter().filter_map(|step| step.assigned);
            assigned.any(|held| attempt.is_none_or(|attempt| held.attempt == attempt))
        };
        match event {
            Event::Assigned(assign) => may_concern(Some(assign.held.attempt)),
            Event::Cancel(held) | Event::Stop(held) | Event::Evict(held) => may_concern(Some(held.attempt)),
            Event::ShutDown { .. } => may_concern(None),
            _ => self.steps.iter().any(|step| step.waits),
        }
    }
}

impl Runtime {
    pub(super) fn take(&mut self, mut event: Event, turn: &mut Turn) {
        self.jobs.note(&event);
        // A session that has begun meanwhile may have shown that bytes are lost.
        if let Event::LogAcknowledged { attempt, totals } = &mut event
            && let Some(log) = self.jobs.log(*attempt)
        {
            *totals = log.totals();
        }
        // An assignment needs its directory and log before anything is done about it.
        if let Event::Assigned(assign) = &event
            && self.agent.assignment(assign.held.attempt).is_none()
            && let Err(error) = self.jobs.open(assign)
        {
            turn.steps.push(self.refuse(assign.held, &error));
            return;
        }
        let assigned = if let Event::Assigned(assign) = &event { Some(assign.held) } else { None };
        let mut step = self.step(event, assigned);
        // What takes no time needs no turn of its own: its write is this one.
        while let Some(next) = self.jobs.do_at_once(&mut step.actions) {
            let Step { records, actions, .. } = self.step(next, None);
            step.records.extend(records);
            step.actions.extend(actions);
        }
        turn.steps.push(step);
    }

    fn step(&mut self, event: Event, assigned: Option<Held>) -> Step {
        let actions = self.agent.step(boot_millis(), event);
        let persisted = actions.iter().filter_map(|action| match action {
            Action::Persist(attempt) => self.agent.record(*attempt),
            _ => None,
        });
        let records = persisted.collect();
        let (live, running) = (self.agent.live(), self.agent.running());
        self.live.send_if_modified(|known| std::mem::replace(known, live) != live);
        self.running.send_if_modified(|known| std::mem::replace(known, running) != running);
        let waits = assigned.is_some_and(|held| self.agent.is_waiting(held.attempt));
        Step { assigned, waits, records, actions }
    }

    /// Writes down what the turn has changed, then does what follows.
    pub(super) async fn finish(&mut self, turn: Turn) {
        if turn.steps.is_empty() {
            return;
        }
        // Of an attempt that changed twice, the newest record says all.
        let records: BTreeMap<AttemptId, Record> = turn
            .steps
            .iter()
            .flat_map(|step| &step.records)
            .map(|record| (record.assign.held.attempt, record.clone()))
            .collect();
        let has_news = !records.is_empty();
        let are_kept = self.persist(records.into_values().collect()).await.is_ok();
        if has_news {
            self.written_at = Some(tokio::time::Instant::now());
        }
        let mut has_forgotten = false;
        for step in turn.steps {
            // One by one, so that what the disk does not take keeps nothing else from it.
            let kept = if are_kept { Ok(()) } else { self.persist(step.records).await };
            let actions = match (kept, step.assigned) {
                // What is answered for is on disk first.
                (Err(error), Some(held)) => self.refuse(held, &error).actions,
                // Without its record an attempt would be orphaned by a restart; the work itself goes on.
                (Err(error), None) => {
                    tracing::error!(%error, "the record of an attempt could not be written");
                    step.actions
                }
                (Ok(()), _) => step.actions,
            };
            for action in actions {
                has_forgotten |= matches!(action, Action::Forget(_));
                match action {
                    Action::Report { held, report } => self.send(held, report),
                    other => self.jobs.carry_out(other),
                }
            }
        }
        if has_forgotten {
            self.jobs.attempts().flush();
        }
    }

    /// Errors: none of them is on disk.
    async fn persist(&self, records: Vec<Record>) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let ended: Vec<AttemptId> =
            records.iter().filter(|record| record.ending.is_some()).map(|record| record.assign.held.attempt).collect();
        let logs: Vec<(AttemptId, AttemptLog)> =
            ended.iter().filter_map(|attempt| Some((*attempt, self.jobs.log(*attempt)?))).collect();
        let attempts = self.jobs.attempts().clone();
        let writing = tokio::task::spawn_blocking(move || {
            // Once its end is on disk nobody reads the container's log again: what it wrote last must be there too.
            for (attempt, log) in logs {
                if let Err(error) = log.sync() {
                    tracing::error!(attempt.id = %attempt, %error, "a log could not be synced to disk");
                }
            }
            attempts.write(&records)
        });
        writing.await.map_err(io::Error::other)??;
        ended.into_iter().for_each(|attempt| self.jobs.exit_is_kept(attempt));
        Ok(())
    }

    /// The disk does not take an assignment: said to the server, or it would wait for an answer for ever.
    fn refuse(&mut self, held: Held, error: &io::Error) -> Step {
        tracing::error!(attempt.id = %held.attempt, %error, "an assignment could not be kept on disk");
        self.jobs.refuse(held.attempt);
        let failure = Failure::node(format!("disk: the assignment could not be kept on the node's disk: {error}"));
        self.step(Event::Refused { held, failure }, None)
    }

    fn send(&mut self, held: Held, report: Report) {
        if let Some(session) = &self.session {
            let _ = session.send(FromNode::Report { held, report });
        }
    }
}

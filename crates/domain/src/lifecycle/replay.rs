//! Reads a task's history again and says where it does what no rule allows. The rules are those of [`super::report`] and its
//! neighbours; here they are asked from the other side, of what was written, by the audit of a live database.

use super::Event;
use crate::{
    attempt::{self, AttemptState, Report, Step},
    ids::AttemptId,
    outcome::{Ending, ExitFacts, LogTotals},
    task::TaskState,
};
use std::collections::BTreeMap;

/// Follows the history of one task from its first entry.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// None before it was submitted.
    state: Option<TaskState>,
    live: Option<(AttemptId, AttemptState)>,
    /// An attempt has ended so, and what becomes of the task is not said yet.
    unsettled: Option<AttemptState>,
    cancel_requested: bool,
    /// Every attempt so far, and whether it was released.
    attempts: BTreeMap<AttemptId, bool>,
}

impl Replay {
    /// Applies one entry. `state`: what the entry says of the task after it.
    ///
    /// Errors, in words: the entry is not what the rules make of the history before it. Nothing can be said of what comes after.
    pub fn entry(&mut self, events: &[Event], state: TaskState) -> Result<(), String> {
        for event in events {
            self.event(event)?;
        }
        if let Some(ended) = self.unsettled {
            return Err(format!("its attempt ended as {ended}, and nothing became of the task"));
        }
        match self.state {
            Some(reached) if reached == state => Ok(()),
            Some(reached) => Err(format!("it says {state}, but its events lead to {reached}")),
            None => Err("it has no events".into()),
        }
    }

    /// The attempt that lives after the entries so far.
    pub fn live(&self) -> Option<AttemptId> {
        self.live.map(|(attempt, _)| attempt)
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Submitted if self.state.is_none() => self.state = Some(TaskState::Pending),
            Event::Submitted => return Err("it was submitted twice".into()),
            Event::Placed { attempt, number, .. } => self.place(*attempt, *number)?,
            Event::Accepted { attempt } => self.report(*attempt, &Report::Accepted)?,
            Event::Preparing { attempt } => self.report(*attempt, &Report::Preparing)?,
            Event::Prepared { attempt } => {
                self.report(*attempt, &Report::Prepared { provenance: serde_json::Value::Null })?;
            }
            Event::Started { attempt } => self.report(*attempt, &Report::Started)?,
            Event::Exited { attempt, .. } => self.report(*attempt, &Report::Exited { exit: ExitFacts::default() })?,
            Event::Ended { attempt, state, failure, .. } => self.end(*attempt, *state, *failure)?,
            Event::Requeued { .. } => self.requeue()?,
            Event::NodeWentDown { attempt, .. } if self.attempts.contains_key(attempt) => {}
            Event::NodeWentDown { attempt, .. } => return Err(format!("attempt {attempt} was never placed")),
            Event::CancelRequested => {
                self.living()?;
                if std::mem::replace(&mut self.cancel_requested, true) {
                    return Err("its cancel was asked for twice".into());
                }
            }
            Event::Finished { state, .. } => self.finish(*state)?,
            Event::Released { attempt } => match self.attempts.get_mut(attempt) {
                Some(released) if !*released => *released = true,
                Some(_) => return Err(format!("attempt {attempt} was released twice")),
                None => return Err(format!("attempt {attempt} was released and never placed")),
            },
            Event::RetryAsked => match self.state {
                Some(state) if state.is_terminal() => {
                    self.state = Some(TaskState::Pending);
                    self.cancel_requested = false;
                }
                _ => return Err("it was queued once more before it had ended".into()),
            },
        }
        Ok(())
    }

    /// The state of a task that has not ended.
    fn living(&self) -> Result<TaskState, String> {
        match self.state {
            Some(state) if !state.is_terminal() => Ok(state),
            Some(state) => Err(format!("something happened to it after it was {state}")),
            None => Err("something happened to it before it was submitted".into()),
        }
    }

    fn place(&mut self, attempt: AttemptId, number: u32) -> Result<(), String> {
        self.living()?;
        if let Some((live, _)) = self.live {
            return Err(format!("attempt {attempt} was placed while {live} was live"));
        }
        if let Some(ended) = self.unsettled.take().filter(|ended| *ended != AttemptState::Lost) {
            return Err(format!("attempt {attempt} was placed in the moment in which one ended as {ended}"));
        }
        if self.cancel_requested {
            return Err(format!("attempt {attempt} was placed after a cancel"));
        }
        if number as usize != self.attempts.len() + 1 {
            return Err(format!("attempt {attempt} has number {number} after {} others", self.attempts.len()));
        }
        if self.attempts.insert(attempt, false).is_some() {
            return Err(format!("attempt {attempt} was placed twice"));
        }
        self.state = Some(TaskState::Assigned);
        self.live = Some((attempt, AttemptState::Assigned));
        Ok(())
    }

    /// The state of the live attempt, which must be this one.
    fn living_attempt(&self, attempt: AttemptId, word: &str) -> Result<AttemptState, String> {
        self.living()?;
        match self.live {
            Some((live, state)) if live == attempt => Ok(state),
            _ => Err(format!("{word} of attempt {attempt} was recorded while it was not live")),
        }
    }

    fn report(&mut self, attempt: AttemptId, report: &Report) -> Result<(), String> {
        let state = self.living_attempt(attempt, report.kind())?;
        if let Step::MoveTo(next) = attempt::next(state, report, self.cancel_requested) {
            self.live = Some((attempt, next));
            self.state = self.state.map(|unchanged| super::task_state_of(next, unchanged));
        }
        Ok(())
    }

    fn end(
        &mut self,
        attempt: AttemptId,
        ended: AttemptState,
        failure: Option<crate::outcome::FailureKind>,
    ) -> Result<(), String> {
        let state = self.living_attempt(attempt, "the end")?;
        // A node's own word goes by the table; `lost` is the platform's.
        if ended != AttemptState::Lost {
            let ending =
                Ending { failure, message: String::new(), exit: None, planned_stop: false, log: LogTotals::default() };
            let lawful = attempt::next(state, &Report::Ended { ending }, self.cancel_requested);
            if lawful != Step::MoveTo(ended) {
                let kind = failure.map_or("no failure", crate::outcome::FailureKind::as_str);
                return Err(format!("attempt {attempt} ended as {ended} from {state} with {kind}"));
            }
        }
        self.live = None;
        self.unsettled = Some(ended);
        Ok(())
    }

    fn requeue(&mut self) -> Result<(), String> {
        self.living()?;
        match self.unsettled.take() {
            Some(AttemptState::Failed | AttemptState::Lost) => self.state = Some(TaskState::Pending),
            Some(ended) => return Err(format!("it was queued again after an attempt that ended as {ended}")),
            // Its node is away: it may be replaced, and keeps its state until then.
            None if self.live.is_some() => {}
            None => return Err("it was queued again while it waited".into()),
        }
        Ok(())
    }

    fn finish(&mut self, end: TaskState) -> Result<(), String> {
        let state = self.living()?;
        let is_lawful = match (self.unsettled.take(), end) {
            (Some(AttemptState::Succeeded), TaskState::Succeeded)
            | (Some(AttemptState::Failed | AttemptState::Lost), TaskState::Failed)
            | (Some(AttemptState::Cancelled | AttemptState::Lost), TaskState::Cancelled) => true,
            // It waited: nobody took it in time, or it was cancelled.
            (None, TaskState::Failed | TaskState::Cancelled) => state == TaskState::Pending && self.live.is_none(),
            _ => false,
        };
        if !is_lawful {
            return Err(format!("it became {end} from {state}, and no attempt ended so"));
        }
        self.state = Some(end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::NodeId, outcome::FailureKind};
    use uuid::Uuid;

    fn attempt(n: u128) -> AttemptId {
        AttemptId::from_uuid(Uuid::from_u128(n))
    }
    fn placed(n: u32) -> Event {
        Event::Placed { attempt: attempt(n.into()), number: n, node: NodeId::from_uuid(Uuid::nil()) }
    }
    fn started(n: u128) -> Event {
        Event::Started { attempt: attempt(n) }
    }
    fn ended(n: u128, state: AttemptState, failure: Option<FailureKind>) -> Event {
        Event::Ended { attempt: attempt(n), state, failure, message: String::new() }
    }
    fn finished(state: TaskState) -> Event {
        Event::Finished { state, failure: None }
    }
    fn requeued() -> Event {
        Event::Requeued { not_before: None, because: String::new(), silent_since: None }
    }

    fn replay(history: &[(Vec<Event>, TaskState)]) -> Result<Replay, String> {
        let mut replay = Replay::default();
        for (events, state) in history {
            replay.entry(events, *state)?;
        }
        Ok(replay)
    }

    #[test]
    fn a_lawful_history_is_followed_to_its_end() {
        use TaskState::{Assigned, Failed, Pending, Running, Succeeded};
        let lost = ended(1, AttemptState::Lost, Some(FailureKind::NodeLost));
        let history = vec![
            (vec![Event::Submitted], Pending),
            (vec![placed(1)], Assigned),
            (vec![Event::Accepted { attempt: attempt(1) }, started(1)], Running),
            (vec![requeued()], Running),
            (vec![lost, placed(2)], Assigned),
            (vec![Event::Released { attempt: attempt(1) }], Assigned),
            (vec![started(2)], Running),
            (vec![ended(2, AttemptState::Succeeded, None), finished(Succeeded)], Succeeded),
            (vec![Event::RetryAsked], Pending),
            (vec![finished(Failed)], Failed),
        ];
        assert_eq!(replay(&history[..7]).expect("lawful").live(), Some(attempt(2)));
        assert_eq!(replay(&history).expect("lawful").live(), None);
    }

    #[test]
    fn each_unlawful_step_is_named() {
        use TaskState::{Assigned, Cancelled, Failed, Pending, Running, Succeeded};
        let running =
            || vec![(vec![Event::Submitted], Pending), (vec![placed(1)], Assigned), (vec![started(1)], Running)];
        let cases: Vec<(&str, (Vec<Event>, TaskState))> = vec![
            ("submitted twice", (vec![Event::Submitted], Pending)),
            ("while 00000000-0000-0000-0000-000000000001 was live", (vec![placed(2)], Assigned)),
            ("while it was not live", (vec![started(7)], Running)),
            ("ended as cancelled", (vec![ended(1, AttemptState::Cancelled, None), finished(Cancelled)], Cancelled)),
            ("nothing became of the task", (vec![ended(1, AttemptState::Succeeded, None)], Running)),
            ("no attempt ended so", (vec![finished(Succeeded)], Succeeded)),
            ("no attempt ended so", (vec![ended(1, AttemptState::Succeeded, None), finished(Failed)], Failed)),
            ("queued again after", (vec![ended(1, AttemptState::Succeeded, None), requeued()], Pending)),
            ("never placed", (vec![Event::Released { attempt: attempt(9) }], Running)),
            ("before it had ended", (vec![Event::RetryAsked], Pending)),
            ("twice", (vec![Event::CancelRequested, Event::CancelRequested], Running)),
            ("its events lead to running", (vec![Event::CancelRequested], Succeeded)),
        ];
        for (word, entry) in cases {
            let mut history = running();
            history.push(entry);
            let illegal = replay(&history).expect_err(word);
            assert!(illegal.contains(word), "{illegal} does not say {word:?}");
        }
        let mut cancelled = running();
        cancelled.push((vec![Event::CancelRequested], Running));
        cancelled.push((vec![ended(1, AttemptState::Succeeded, None), finished(Succeeded)], Succeeded));
        assert!(replay(&cancelled).is_err(), "no success after a cancel");
        assert!(replay(&[(vec![placed(1)], Assigned)]).is_err(), "nothing comes before the submission");
    }
}

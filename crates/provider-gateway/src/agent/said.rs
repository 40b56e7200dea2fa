//! What is said of an attempt: in the hello, and in the message of its end.

use super::attempt::{Attempt, Step};
use domain::{
    attempt::AttemptState,
    outcome::{ExitFacts, FailureKind},
};
use protocol::HeldAttempt;

impl Attempt {
    /// As the hello says it. Where its log stands is known to the shell.
    pub(super) fn as_said(&self) -> HeldAttempt {
        let is_over = matches!(self.step, Step::Ending | Step::Removing { .. } | Step::Released) && !self.fenced;
        let is_finishing = matches!(self.step, Step::Storing | Step::Draining);
        let assign = self.assign.as_deref();
        HeldAttempt {
            task: assign.map(|assign| assign.task),
            number: assign.map_or(0, |assign| assign.number),
            gpu_ids: assign.map(|assign| assign.gpu_ids.clone()).unwrap_or_default(),
            ahead: self.is_ahead(),
            ending: self.ending.clone().filter(|_| is_over),
            // A planned stop is no exit of the task's own.
            exit: self.exit.clone().filter(|_| is_finishing && !self.ends_planned()),
            ..HeldAttempt::new(self.held, self.state())
        }
    }

    pub(super) fn ends_planned(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.planned_stop)
    }

    pub(super) fn state(&self) -> AttemptState {
        match self.step {
            Step::Waiting { .. } => AttemptState::Assigned,
            Step::Preparing | Step::Starting | Step::Adopting { .. } => AttemptState::Preparing,
            Step::Running | Step::Clearing { .. } => AttemptState::Running,
            Step::Storing | Step::Draining => AttemptState::Finishing,
            Step::Ending | Step::Removing { .. } | Step::Released => match &self.ending {
                _ if self.fenced => AttemptState::Lost,
                Some(ending) if ending.failure.is_none() => AttemptState::Succeeded,
                Some(ending) if ending.failure == Some(FailureKind::Cancelled) => AttemptState::Cancelled,
                Some(_) | None => AttemptState::Failed,
            },
        }
    }
}

/// One sentence on an exit.
pub(super) fn describe(exit: &ExitFacts) -> String {
    let signal = exit.signal.map(|signal| format!(" (signal {signal})")).unwrap_or_default();
    let code = exit.code.map_or_else(|| "no exit code".to_owned(), |code| format!("exit {code}"));
    // Said by shells and by our own supervisors alike, and no number that people know.
    let means = match (&exit.not_started, exit.code) {
        (Some(why), _) => format!(": {why}"),
        (None, Some(126)) => ": the program could not be executed".to_owned(),
        (None, Some(127)) => ": the program was not found".to_owned(),
        (None, _) => String::new(),
    };
    match exit.failure() {
        None => String::new(),
        Some(FailureKind::OutOfMemory) => format!("killed at its memory limit, {code}{signal}"),
        Some(FailureKind::Timeout) => format!("stopped at its timeout, {code}{signal}"),
        Some(FailureKind::Cancelled) => format!("cancelled, {code}{signal}"),
        Some(_) => format!("{code}{signal}{means}"),
    }
}

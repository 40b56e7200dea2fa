//! What became of an attempt while no agent looked, told by what it left.

use super::{proc_fs, state::State};
use crate::executor::{Adopted, Job};

/// What there is to judge by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Evidence {
    is_prepared: bool,
    /// The machine has not been restarted since it was prepared.
    is_same_boot: bool,
    /// A supervisor took it up.
    is_supervised: bool,
    supervisor_is_alive: bool,
    has_exit_file: bool,
}

pub(super) fn adopt(job: &Job) -> Adopted {
    // First, since a supervisor that is seen dead then may have told the end in its last moment.
    let supervisor_is_alive = State::read(&job.dir).supervisor.is_some_and(|process| process.is_alive());
    judge_state(&State::read(&job.dir), job.is_of_earlier_boot, supervisor_is_alive)
}

/// As [`adopt`], of what was read before any supervisor was there.
pub(super) fn adopt_unstarted(job: &Job, state: &State) -> Adopted {
    if state.supervisor.is_some() { adopt(job) } else { judge_state(state, job.is_of_earlier_boot, false) }
}

fn judge_state(state: &State, is_of_earlier_boot: bool, supervisor_is_alive: bool) -> Adopted {
    let is_same_boot = state.record.as_ref().is_some_and(|record| record.boot_id == proc_fs::boot_id());
    judge(Evidence {
        is_prepared: state.record.is_some() || is_of_earlier_boot,
        is_same_boot: is_same_boot && !is_of_earlier_boot,
        is_supervised: state.supervisor.is_some(),
        supervisor_is_alive,
        has_exit_file: state.exit.is_some(),
    })
}

fn judge(evidence: Evidence) -> Adopted {
    match evidence {
        Evidence { has_exit_file: true, .. } => Adopted::Exited,
        Evidence { is_prepared: false, .. } => Adopted::NotStarted,
        // Whether it had been started is not certain after a power loss, and then it must not run twice.
        Evidence { is_same_boot: false, .. } => Adopted::Gone,
        Evidence { is_supervised: false, .. } => Adopted::NotStarted,
        Evidence { supervisor_is_alive: true, .. } => Adopted::Running,
        Evidence { supervisor_is_alive: false, .. } => Adopted::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_tell_what_became_of_an_attempt() {
        let prepared = Evidence {
            is_prepared: true,
            is_same_boot: true,
            is_supervised: false,
            supervisor_is_alive: false,
            has_exit_file: false,
        };
        let running = Evidence { is_supervised: true, supervisor_is_alive: true, ..prepared };
        assert_eq!(judge(Evidence { is_prepared: false, is_same_boot: false, ..prepared }), Adopted::NotStarted);
        assert_eq!(judge(prepared), Adopted::NotStarted);
        assert_eq!(judge(running), Adopted::Running);
        assert_eq!(judge(Evidence { supervisor_is_alive: false, ..running }), Adopted::Gone);
        // Another process has the supervisor's id and start after a reboot: still gone.
        assert_eq!(judge(Evidence { is_same_boot: false, ..running }), Adopted::Gone);
        assert_eq!(judge(Evidence { is_same_boot: false, ..prepared }), Adopted::Gone);
        assert_eq!(judge(Evidence { is_same_boot: false, has_exit_file: true, ..running }), Adopted::Exited);
        assert_eq!(judge(Evidence { supervisor_is_alive: false, has_exit_file: true, ..running }), Adopted::Exited);
    }
}

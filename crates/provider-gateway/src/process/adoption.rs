//! What became of an attempt while no agent looked, told by the files it left.

use super::{exit::ExitFile, proc_fs, record::Record, supervisor};
use crate::executor::Adopted;
use std::path::Path;

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

pub(super) fn adopt(job_dir: &Path) -> Adopted {
    let shim_dir = supervisor::dir(job_dir);
    let record = Record::read(job_dir);
    let supervisor = supervisor::read_process(&shim_dir, "supervisor");
    judge(Evidence {
        is_prepared: record.is_some(),
        is_same_boot: record.is_some_and(|record| record.boot_id == proc_fs::boot_id()),
        is_supervised: supervisor.is_some(),
        supervisor_is_alive: supervisor.is_some_and(|process| process.is_alive()),
        // Last, since a supervisor that was just seen dead may have written it in its last moment.
        has_exit_file: ExitFile::read(&shim_dir).is_some(),
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

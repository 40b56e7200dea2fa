//! Finding and killing what is left of an attempt when its supervisor can't do it any more: it was killed, or gave up on a
//! process that would not die.

use super::{pidfd::Process, proc_fs, state::Record};
use domain::ids::AttemptId;
use nix::sys::signal::Signal;
use std::{
    collections::HashSet,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// What an attempt's processes can be known by.
pub(super) struct Traces {
    attempt: AttemptId,
    uid: Option<u32>,
    /// The process that the supervisor started, if that is known.
    main: Option<Process>,
    supervisor: Option<Process>,
}

impl Traces {
    pub(super) fn new(attempt: AttemptId, record: &Record, main: Option<Process>, supervisor: Option<Process>) -> Self {
        Self { attempt, uid: record.uid, main, supervisor }
    }

    /// All living processes of the attempt, the supervisor not among them.
    fn find(&self) -> Vec<Process> {
        let processes: Vec<_> = proc_fs::all().collect();
        // Where the user is the attempt's own, it tells all and cannot be shaken off.
        if let Some(uid) = self.uid {
            let is_own = |process: &Process| proc_fs::user(process.pid) == Some(uid);
            return processes.into_iter().map(|(process, _)| process).filter(is_own).collect();
        }
        let me = std::process::id() as i32;
        let attempt = self.attempt.to_string();
        // A session is told by its leader's id, which may be a stranger's once the leader is gone.
        let session = self.main.filter(|main| main.is_alive()).map(|main| main.pid);
        let is_own = |process: &Process, session_of: i32| {
            Some(*process) == self.main
                || Some(session_of) == session
                || proc_fs::was_given(process.pid, "UNIDESK_ATTEMPT_ID", &attempt)
        };
        let mut found: HashSet<Process> = HashSet::new();
        loop {
            let before = found.len();
            for (process, stat) in &processes {
                let has_own_parent = found.iter().any(|parent| parent.pid == stat.parent);
                if process.pid != me
                    && Some(*process) != self.supervisor
                    && !found.contains(process)
                    && (has_own_parent || is_own(process, stat.session))
                {
                    found.insert(*process);
                }
            }
            if found.len() == before {
                return found.into_iter().collect();
            }
        }
    }

    /// Kills all of it. Answers how many were still alive when time was up. Blocks up to `within`.
    pub(super) fn kill_all(&self, shim: &Path, within: Duration) -> usize {
        let until = Instant::now() + within;
        let mut pause = Duration::from_millis(2);
        let mut was_empty = false;
        loop {
            let left = self.find();
            // Looked at in the middle of its exec or fork, a process shows neither user nor environment: one look proves nothing.
            if left.is_empty() && was_empty || Instant::now() >= until {
                return left.len();
            }
            was_empty = left.is_empty();
            if was_empty {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            if let Some(uid) = self.uid {
                // One step for all of a user, so that forking is no escape from it.
                let mut command = Command::new(shim);
                command.arg("kill-user").arg(uid.to_string()).env_clear().current_dir("/");
                let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            }
            for process in left {
                process.signal(Signal::SIGKILL);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

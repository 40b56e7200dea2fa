//! How a process ended, as its shim tells it, and what it means to the user.

use super::WORKSPACE;
use crate::{
    agent::SELF_FENCED,
    executor::{Failure, Job},
};
use domain::{Timestamp, outcome::ExitFacts, quantity::show_bytes, spec::TaskSpec};
use std::collections::HashMap;

/// What a shell answers for a program that is not there, and for one that may not be executed.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ExitFile {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    /// The step before the user's program that went wrong, with the system's error number.
    pub(super) not_started: Option<(String, i32)>,
    pub(super) oom: bool,
    /// The shim ended it because its lease had run out.
    pub(super) fenced: bool,
    pub(super) started_ms: i64,
    pub(super) ended_ms: i64,
    pub(super) duration_ms: u64,
    pub(super) cpu_ms: u64,
    pub(super) peak_memory_bytes: u64,
    pub(super) dropped_bytes: u64,
    /// What the shim wrote down of its output. 0: an earlier version, which synced it first.
    pub(super) log_bytes: u64,
    /// Processes that no signal could end.
    pub(super) alive: u64,
    /// Processes of this machine that the kernel killed for lack of memory meanwhile.
    pub(super) kernel_kills: u64,
}

impl ExitFile {
    pub(super) fn parse(text: &str) -> Self {
        let fields: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let number = |key: &str| fields.get(key).and_then(|value| value.parse::<i64>().ok());
        let count = |key: &str| number(key).map_or(0, i64::unsigned_abs);
        Self {
            code: number("code").map(|code| code as i32),
            signal: number("signal").map(|signal| signal as i32),
            not_started: fields.get("failed_step").zip(number("errno")).map(|(step, no)| ((*step).into(), no as i32)),
            oom: count("oom") == 1,
            fenced: count("fenced") == 1,
            started_ms: number("started_ms").unwrap_or(0),
            ended_ms: number("ended_ms").unwrap_or(0),
            duration_ms: count("duration_ms"),
            cpu_ms: count("cpu_ms"),
            peak_memory_bytes: count("peak_memory_bytes"),
            dropped_bytes: count("dropped_stdout") + count("dropped_stderr"),
            log_bytes: count("log_bytes"),
            alive: count("alive"),
            kernel_kills: count("kernel_kills"),
        }
    }

    /// The exit as every executor tells it.
    ///
    /// Errors: the node's fault, when the user's program was never reached or could not be ended.
    pub(super) fn facts(&self) -> Result<ExitFacts, Failure> {
        let code = match (&self.not_started, self.code, self.signal) {
            (Some((step, errno)), ..) if step == "execute" && matches!(*errno, libc::ENOENT | libc::ENOTDIR) => {
                NOT_FOUND
            }
            (Some((step, _)), ..) if matches!(step.as_str(), "execute" | "directory") => NOT_EXECUTABLE,
            (Some((step, errno)), ..) => {
                return Err(Failure::node(format!(
                    "The process could not be started on this node (step: {step}): {}.",
                    describe(*errno)
                )));
            }
            (None, _, _) if self.fenced => SELF_FENCED,
            (None, Some(code), _) => code,
            (None, None, Some(signal)) => 128 + signal,
            (None, None, None) => {
                return Err(Failure::node(
                    "The process did not end although it was killed; the machine's owner may have to restart it.",
                ));
            }
        };
        Ok(ExitFacts {
            code: Some(code),
            signal: self.signal.filter(|_| !self.fenced),
            oom: self.oom,
            duration_ms: self.duration_ms,
            cpu_ms: Some(self.cpu_ms),
            peak_memory_bytes: Some(self.peak_memory_bytes),
            started_at: Timestamp::from_timestamp_millis(self.started_ms),
            ended_at: Timestamp::from_timestamp_millis(self.ended_ms),
            ..ExitFacts::default()
        })
    }

    /// What kept the user's program from beginning.
    pub(super) fn why_not_started(&self, spec: &TaskSpec, path: &str) -> Option<String> {
        self.not_started.as_ref().map(|(step, errno)| why_not_started(spec, path, step, *errno))
    }

    /// Sentences for the log that the exit code alone would leave people guessing about.
    pub(super) fn explanations(&self, job: &Job, path: &str) -> Vec<String> {
        let spec = &job.spec;
        let mut notes: Vec<String> = self.why_not_started(spec, path).into_iter().collect();
        if self.oom {
            notes.push(format!(
                "killed: the task's processes used more than their {} of memory (peak {})",
                show_bytes(spec.requirements.amounts.memory_bytes),
                show_bytes(self.peak_memory_bytes)
            ));
        } else if self.signal == Some(libc::SIGKILL) && self.kernel_kills > 0 {
            notes.push(
                "the machine itself ran out of memory while the task ran, and its kernel killed processes".to_owned(),
            );
        }
        notes
    }
}

fn why_not_started(spec: &TaskSpec, path: &str, step: &str, errno: i32) -> String {
    let argv = spec.command.argv();
    let program = argv.first().map_or("", String::as_str);
    match (step, errno) {
        ("execute", libc::ENOENT) if !program.contains('/') => {
            format!("{program}: not found on this node (PATH {path})")
        }
        // The kernel says the same of a script whose interpreter is missing.
        ("execute", libc::ENOENT | libc::ENOTDIR) => {
            format!("{program}: not found on this node, or the interpreter that its first line names is not")
        }
        ("execute", libc::EACCES) => format!("{program}: is there, but may not be executed (chmod +x, or a directory)"),
        ("execute", libc::ENOEXEC) => {
            format!("{program}: is no program of this machine's kind, and no script that begins with #!")
        }
        ("execute", _) => format!("{program}: can't be executed: {}", describe(errno)),
        ("directory", libc::ENOENT | libc::ENOTDIR) => {
            format!("the working directory {} does not exist in the code ({WORKSPACE} is its root)", spec.workdir)
        }
        _ => format!("the process could not be started (step: {step}): {}", describe(errno)),
    }
}

fn describe(errno: i32) -> &'static str {
    nix::errno::Errno::from_raw(errno).desc()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_reads_as_a_shell_tells_it() {
        let facts = ExitFile::parse("signal=15\noom=0\nduration_ms=12\ncpu_ms=3\n").facts().expect("ended");
        assert_eq!((facts.code, facts.signal, facts.duration_ms, facts.cpu_ms), (Some(143), Some(15), 12, Some(3)));
    }

    #[test]
    fn a_program_that_is_not_there_is_the_users_and_a_broken_start_is_the_nodes() {
        let code = |step: &str, errno: i32| {
            ExitFile::parse(&format!("failed_step={step}\nerrno={errno}\n")).facts().map(|facts| facts.code)
        };
        assert_eq!(code("execute", libc::ENOENT), Ok(Some(127)));
        assert_eq!(code("execute", libc::EACCES), Ok(Some(126)));
        assert_eq!(code("directory", libc::ENOENT), Ok(Some(126)));
        assert!(code("user", libc::EPERM).is_err());
        assert!(ExitFile::parse("alive=1\n").facts().is_err());
    }
}

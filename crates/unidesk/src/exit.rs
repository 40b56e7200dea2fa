//! Exit codes: part of the interface, and the same for everyone who runs a command.

use api_types::task::Task;
use domain::outcome::FailureKind;

pub const DONE: u8 = 0;
/// It ran and found something, or a service failed.
pub const FAULT: u8 = 1;
pub const USAGE: u8 = 2;
pub const NOT_FOUND: u8 = 3;
pub const REFUSED: u8 = 4;
pub const UNREACHABLE: u8 = 5;
pub const NO_CODE: u8 = 120;
pub const TIMED_OUT: u8 = 124;
/// `run` and `wait` only: 5 could be the task's own.
pub const RUN_UNREACHABLE: u8 = 125;
pub const LOST_OR_CANCELLED: u8 = 126;
/// Stopped by Ctrl-C (128 + SIGINT), as a local program would end.
pub const INTERRUPTED: u8 = 130;
/// The reader of stdout is gone (128 + SIGPIPE), as a local program would end.
pub const BROKEN_PIPE: u8 = 141;

pub const HELP: &str = "\
Exit codes

run and wait exit with the task's own code, and with
  120  it ended without a code of its own: build_failed, source_unavailable, queue_timeout, ...
  124  it ran into its timeout
  125  the server can't be reached
  126  it was lost, or cancelled
  141  the reader of run's stdout is gone; the task goes on
A task's own 120 to 126 is told apart by -o json: outcome and exit_code.

Other commands, and run before the task exists
    0  done
    1  looked and found something
    2  usage: a flag, a field of the task, an id that several tasks share
    3  not found
    4  refused: not logged in, not permitted, or the state forbids it
    5  the server can't be reached (run and wait: 125)
  130  stopped by Ctrl-C
";

/// What `run` and `wait` exit with when the task has ended.
pub fn of_task(task: &Task) -> u8 {
    let failure = task.outcome.as_deref().and_then(|outcome| outcome.parse::<FailureKind>().ok());
    match (task.outcome.as_deref(), failure) {
        (Some("succeeded"), _) => DONE,
        (_, Some(FailureKind::Timeout)) => TIMED_OUT,
        (_, Some(FailureKind::NodeLost | FailureKind::Cancelled | FailureKind::Poison)) => LOST_OR_CANCELLED,
        (_, Some(FailureKind::ExitNonzero | FailureKind::OutOfMemory)) => own_code(task),
        _ => NO_CODE,
    }
}

/// Never 0: the task did not succeed.
fn own_code(task: &Task) -> u8 {
    task.exit_code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(NO_CODE)
}

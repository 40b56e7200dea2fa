//! `unidesk-shim`: the supervisor of exactly one process of a task. It outlives the agent that starts it.
//!
//! Owns: the process between its start and its exit file: output, limits, signals, and that nothing of it is left behind.
//! Must not know: tasks, attempts, the network, the agent's own files. It is told what to run, and says what came of it in one file, since
//! making files is what costs most about a short task:
//!
//! | from byte | written by | what |
//! |---|---|---|
//! | 0 | agent | its own notes |
//! | 4096 | shim | its own pid and start time, before the process exists |
//! | 4224 | shim | pid and start time of the process, once it was executed |
//! | 4352 | shim | how it ended; whole when its last line is `end` |
//! | 8192 | shim | all output, framed (see [`log`]) |
//!
//! The file is locked while a shim lives, so that two can't supervise one attempt. What stands in one page is there wholly or not at
//! all, whenever a process is killed.
//!
//! With a spec comes a doorbell, a socket to the agent: a byte whenever the file has grown. An agent that has the exit on disk itself says so by
//! a byte in return; when none comes, the shim sees to it that its own file outlives a power loss. Signals to the shim: SIGTERM asks
//! the process to stop, SIGUSR1 kills the whole tree, SIGUSR2 says that the lease of exclusive work was renewed.
//!
//! An agent has one [`starter`], which forks a shim for each attempt; `run` is a single one. `init` is another way to run it: as the first
//! process of a container of exclusive work. Begin at [`supervise`] or [`init`].

#![cfg_attr(not(test), no_main)]

mod child;
mod facts;
mod init;
mod lease;
mod log;
mod memory;
mod spec;
mod starter;
mod state;
mod supervise;
mod sys;
mod tree;

use state::State;
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd},
    path::Path,
    time::{Duration, Instant},
};

/// An agent that is alive and not overwhelmed has an exit on disk long before.
const KEPT_WITHIN: Duration = Duration::from_secs(2);

/// The program begins here and not in a `main` of Rust, which would read the map of its memory to find the end of its stack. That takes as
/// long as all that this program does for a short task.
#[cfg(not(test))]
#[expect(unsafe_code, reason = "the name by which the C library calls a program")]
// SAFETY: no other function of this program has the name, and its arguments are those of C.
#[unsafe(no_mangle)]
extern "C" fn main(_: libc::c_int, _: *const *const libc::c_char) -> libc::c_int {
    main_with_arguments()
}

#[cfg_attr(test, expect(dead_code, reason = "tests call what is below"))]
fn main_with_arguments() -> i32 {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let result = match words.as_slice() {
        ["run", _] => run(Path::new(&arguments[1])),
        ["starter"] => starter::serve(),
        ["kill-user", uid] => kill_user(uid),
        // What comes after is not ours to read as text.
        ["init", ..] => match init::run(&arguments[1..]) {
            Ok(code) => return code.clamp(0, 255),
            Err(error) => Err(error),
        },
        _ => {
            Err(io::Error::other("usage: unidesk-shim starter | run FILE < SPEC | init ... -- PROGRAM | kill-user UID"))
        }
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("unidesk-shim: {error}");
            1
        }
    }
}

/// One attempt without a starter: the spec is the standard input, the doorbell the standard output.
fn run(file: &Path) -> io::Result<()> {
    sys::close_inherited();
    sys::default_signals();
    let signals = sys::signals_as_file()?;
    std::env::set_current_dir("/")?;
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text)?;
    let bell = Doorbell(File::from(io::stdout().as_fd().try_clone_to_owned()?));
    attempt(file, &text, &signals, &bell).map(drop)
}

/// Sees one process from its start to its exit file. False: another shim has this attempt, or had it; whoever waits looks at the file.
///
/// No daemon: its parent waits for it, which in a container without an init nobody else would do. It leads a group of its own, and no
/// signal but three means anything to it; they wait in a file from before it was there, so that one that comes early is handled late,
/// never lost.
pub(crate) fn attempt(file: &Path, spec: &[u8], signals: &File, bell: &Doorbell) -> io::Result<bool> {
    sys::adopt_orphans()?;
    let Some(state) = State::take(file)? else { return Ok(false) };
    let spec = spec::Spec::parse(spec)?;
    state.begin(tree::start_time(std::process::id() as i32).unwrap_or(0))?;

    let facts = supervise::supervise(&state, &spec, signals, bell)?;
    state.publish(&facts);
    bell.ring();
    if !bell.is_answered(signals) {
        state.sync();
    }
    // Before the doorbell closes: by then the file is free for what comes next.
    drop(state);
    Ok(true)
}

/// Kills every process of a user at once. The kernel does it in one step that no fork can slip through, which no loop over
/// process ids can promise.
fn kill_user(uid: &str) -> io::Result<()> {
    let uid: u32 = uid.parse().map_err(|_| io::Error::other("the user is given as a number"))?;
    sys::become_user_and_kill_all(uid)
}

/// Tells the agent that there is something to see. It may be gone, or not have looked yet: both are fine.
pub(crate) struct Doorbell(File);

impl Doorbell {
    pub(crate) fn ring(&self) {
        self.say(b"!");
    }

    /// Why this shim gives up.
    pub(crate) fn complain(&self, error: &io::Error) {
        self.say(format!("x{error}").as_bytes());
    }

    /// Another shim has this attempt.
    pub(crate) fn leave_to_another(&self) {
        self.say(b"o");
    }

    fn say(&self, word: &[u8]) {
        let _ = io::Write::write(&mut &self.0, word);
    }

    /// Waits until the agent says that it has the exit on disk. False: it is gone, or busy with worse, or wants this shim to end.
    fn is_answered(&self, signals: &File) -> bool {
        let until = Instant::now() + KEPT_WITHIN;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let [has_said, _] = sys::poll([self.0.as_raw_fd(), signals.as_raw_fd()], Some(left));
            if has_said {
                return (&self.0).read(&mut [0; 16]).is_ok_and(|count| count > 0);
            }
            // The end of the process itself rings here too.
            while let Some(signal) = sys::next_signal(signals) {
                if signal == libc::SIGUSR1 {
                    return false;
                }
            }
            if left.is_zero() {
                return false;
            }
        }
    }
}

//! `unidesk-shim`: the supervisor of exactly one process of a task. It outlives the agent that starts it.
//!
//! Owns: the process between its start and its exit file: output, limits, signals, and that nothing of it is left behind.
//! Must not know: tasks, attempts, the network, the agent's own files. Agent and shim meet in one directory:
//!
//! | file | written by | what |
//! |---|---|---|
//! | `spec` | agent | what to run; deleted when read, since it holds the task's environment |
//! | `lock` | shim | locked while a shim lives: two can't supervise one attempt |
//! | `supervisor` | shim | its own pid and start time, before the process exists |
//! | `started` | shim | pid and start time of the process, once it was executed |
//! | `log` | shim | all output, framed (see [`log`]) |
//! | `exit` | shim | how it ended, on disk for good before it has this name |
//!
//! The shim's standard output is the doorbell: a byte whenever one of these files has grown. Signals to the shim: SIGTERM
//! asks the process to stop, SIGUSR1 kills the whole tree, SIGUSR2 says that the lease of exclusive work was renewed.
//!
//! `init` is the other way to run it: as the first process of a container of exclusive work. Begin at [`supervise`] or [`init`].

mod child;
mod exit_file;
mod init;
mod lease;
mod log;
mod memory;
mod spec;
mod supervise;
mod sys;
mod tree;

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::ExitCode,
};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let result = match words.as_slice() {
        ["run", _] => run(&PathBuf::from(&arguments[1])),
        ["kill-user", uid] => kill_user(uid),
        // What comes after is not ours to read as text.
        ["init", ..] => match init::run(&arguments[1..]) {
            Ok(code) => return ExitCode::from(code.clamp(0, 255) as u8),
            Err(error) => Err(error),
        },
        _ => Err(io::Error::other("usage: unidesk-shim run DIRECTORY | init ... -- PROGRAM | kill-user UID")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("unidesk-shim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path) -> io::Result<()> {
    // A child of the agent and no daemon: in a container without an init nobody but the agent would wait for it. The agent's
    // terminal still does not reach it. It leads a group of its own, and no signal but two means anything to it; they wait in
    // a file from here on, so that one that comes early is handled late, never lost.
    sys::close_inherited();
    let signals = sys::signals_as_file()?;
    sys::adopt_orphans()?;
    std::env::set_current_dir("/")?;

    let lock = File::create(dir.join("lock"))?;
    if lock.try_lock().is_err() || dir.join("supervisor").exists() {
        // Another shim has this attempt, or had it. Whoever waits looks at the files.
        return Ok(());
    }
    let spec = spec::Spec::read(&dir.join("spec"))?;
    let me = std::process::id() as i32;
    let start = tree::start_time(me).unwrap_or(0);
    write_whole(dir, "supervisor", &format!("pid={me}\npid_start={start}\n"))?;
    fs::remove_file(dir.join("spec"))?;

    let bell = Doorbell(File::from(io::stdout().as_fd().try_clone_to_owned()?));
    supervise::supervise(dir, &spec, signals, bell)?;
    drop(lock);
    Ok(())
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
        let _ = io::Write::write(&mut &self.0, b"!");
    }
}

/// Makes a small file appear with all of its content at once.
fn write_whole(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let unfinished = dir.join(format!("{name}.new"));
    fs::write(&unfinished, text)?;
    fs::rename(unfinished, dir.join(name))
}

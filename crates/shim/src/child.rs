//! The forked child on its way to the user's program.

use crate::{spec::Spec, sys};
use std::{
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
};

/// What can go wrong before the user's program runs, in the order of doing.
const STEPS: [&str; 6] = ["setup", "network", "limits", "user", "directory", "execute"];

/// The two pipes of a process, for reading.
pub(crate) struct Output {
    pub(crate) stdout: File,
    pub(crate) stderr: File,
}

pub(crate) enum Launched {
    /// The user's program runs.
    Running(i32, Output),
    /// It does not: at which step, and the system's error number. The child has ended or is about to.
    Failed(i32, &'static str, i32),
}

/// Starts the process. Returns once the program is executed or can't be.
pub(crate) fn launch(spec: &Spec) -> io::Result<Launched> {
    let (stdout, stdout_writer) = sys::pipe()?;
    let (stderr, stderr_writer) = sys::pipe()?;
    let (mut verdict, verdict_writer) = sys::pipe()?;
    let nothing = File::open("/dev/null")?;
    let parent = std::process::id() as i32;
    match sys::fork()? {
        sys::Forked::Child => {
            let (step, error) = become_program(spec, parent, [&nothing, &stdout_writer, &stderr_writer]);
            let mut message = vec![step as u8];
            message.extend_from_slice(&error.raw_os_error().unwrap_or(libc::EINVAL).to_le_bytes());
            let _ = (&verdict_writer).write_all(&message);
            sys::exit_now(127)
        }
        sys::Forked::Parent(pid) => {
            drop((stdout_writer, stderr_writer, verdict_writer));
            let mut message = Vec::new();
            verdict.read_to_end(&mut message)?;
            match message.as_slice() {
                [step, errno @ ..] if errno.len() == 4 => {
                    let errno = i32::from_le_bytes([errno[0], errno[1], errno[2], errno[3]]);
                    Ok(Launched::Failed(pid, STEPS.get(usize::from(*step)).copied().unwrap_or("setup"), errno))
                }
                // The pipe closed itself because the program was executed, or the child was killed on its way: then its
                // exit status tells.
                _ => Ok(Launched::Running(pid, Output { stdout, stderr })),
            }
        }
    }
}

/// Returns only with what went wrong, and at which of [`STEPS`].
fn become_program(spec: &Spec, parent: i32, streams: [&File; 3]) -> (usize, io::Error) {
    let mut step = 0;
    match take_steps(spec, parent, streams, &mut step) {
        Ok(never) => match never {},
        Err(error) => (step, error),
    }
}

fn take_steps(spec: &Spec, parent: i32, streams: [&File; 3], step: &mut usize) -> io::Result<std::convert::Infallible> {
    sys::new_session()?;
    for (fd, stream) in streams.iter().enumerate() {
        sys::put_at(stream.as_raw_fd(), fd as i32)?;
    }
    sys::reset_signals();
    sys::set_umask(0o022);
    // When the machine runs out of memory, the kernel shall take a task, not the agent or this shim.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    *step = 1;
    if !spec.has_network {
        sys::leave_network()?;
    }
    *step = 2;
    sys::limit(libc::RLIMIT_CORE, 0)?;
    if let Some(count) = spec.max_open_files {
        sys::limit(libc::RLIMIT_NOFILE, count)?;
    }
    if let Some(count) = spec.max_processes {
        sys::limit(libc::RLIMIT_NPROC, count)?;
    }
    *step = 3;
    if let Some(uid) = spec.uid {
        sys::become_user(uid)?;
    }
    // After the change of user, which would undo it.
    sys::die_with_parent(parent)?;
    sys::forbid_new_rights()?;
    *step = 4;
    std::env::set_current_dir(&spec.cwd)?;
    *step = 5;
    Err(search_and_execute(&spec.argv, &spec.env))
}

/// Looks for the program as a shell would: in the PATH of the task's own environment, unless its name has a slash.
pub(crate) fn search_and_execute(argv: &[CString], env: &[CString]) -> io::Error {
    let name = argv[0].as_bytes();
    if name.contains(&b'/') {
        return sys::execute(&argv[0], argv, env);
    }
    let path = env.iter().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH=")).unwrap_or_default();
    let mut verdict = io::Error::from_raw_os_error(libc::ENOENT);
    for dir in std::env::split_paths(OsStr::from_bytes(path)) {
        let Ok(candidate) = CString::new(dir.join(OsStr::from_bytes(name)).as_os_str().as_bytes()) else { continue };
        let error = sys::execute(&candidate, argv, env);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            // A file that may not be executed hides no good one further on, but is the better explanation.
            Some(libc::EACCES) => verdict = error,
            _ => return error,
        }
    }
    verdict
}

/// A script without `#!`, as shells and Docker's own init run it.
pub(crate) fn execute_as_script(argv: &[CString], env: &[CString]) -> io::Error {
    let shell = CString::from(c"/bin/sh");
    let words: Vec<CString> = std::iter::once(shell.clone()).chain(argv.iter().cloned()).collect();
    sys::execute(&shell, &words, env)
}

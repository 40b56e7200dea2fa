//! The forked child on its way to the user's program.

use crate::{
    spec::Spec,
    sys::{self, Words},
};
use std::{
    convert::Infallible,
    ffi::{CString, OsStr},
    fs::File,
    io,
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
    /// It does not: at which step, and the system's error number. The child has ended.
    Failed(i32, &'static str, i32),
}

/// Starts the process. Returns once the program is executed or can't be.
pub(crate) fn launch(spec: &Spec) -> io::Result<Launched> {
    let (stdout, stdout_writer) = sys::pipe()?;
    let (stderr, stderr_writer) = sys::pipe()?;
    let nothing = File::open("/dev/null")?;
    // The child shares our memory, so all that it needs is made here.
    let plan = Plan {
        spec,
        parent: std::process::id() as i32,
        streams: [nothing.as_raw_fd(), stdout_writer.as_raw_fd(), stderr_writer.as_raw_fd()],
        cwd: CString::new(spec.cwd.as_str())?,
        program: Program::new(&spec.argv, &spec.env),
    };
    let mut failed = None;
    let pid = sys::fork_sharing_memory(&mut || {
        let mut step = 0;
        let Err(error) = plan.carry_out(&mut step);
        failed = Some((step, error.raw_os_error().unwrap_or(libc::EINVAL)));
        127
    })?;
    Ok(match failed {
        Some((step, errno)) => Launched::Failed(pid, STEPS[step], errno),
        // Executed, or killed on its way: then its exit status tells.
        None => Launched::Running(pid, Output { stdout, stderr }),
    })
}

/// What the child does: system calls and nothing else.
struct Plan<'a> {
    spec: &'a Spec,
    parent: i32,
    streams: [i32; 3],
    cwd: CString,
    program: Program<'a>,
}

impl Plan<'_> {
    /// Returns only with what went wrong, and at which of [`STEPS`].
    fn carry_out(&self, step: &mut usize) -> io::Result<Infallible> {
        sys::new_session()?;
        for (fd, stream) in self.streams.iter().enumerate() {
            sys::put_at(*stream, fd as i32)?;
        }
        sys::unblock_signals();
        sys::set_umask(0o022);
        // When the machine runs out of memory, the kernel shall take a task, not the agent or this shim.
        let _ = sys::write_to(c"/proc/self/oom_score_adj", b"500");
        *step = 1;
        if !self.spec.has_network {
            sys::leave_network()?;
        }
        *step = 2;
        sys::limit(libc::RLIMIT_CORE, 0)?;
        if let Some(count) = self.spec.max_open_files {
            sys::limit(libc::RLIMIT_NOFILE, count)?;
        }
        if let Some(count) = self.spec.max_processes {
            sys::limit(libc::RLIMIT_NPROC, count)?;
        }
        *step = 3;
        if let Some(uid) = self.spec.uid {
            sys::become_user(uid)?;
        }
        // After the change of user, which would undo it.
        sys::die_with_parent(self.parent)?;
        sys::forbid_new_rights()?;
        *step = 4;
        sys::change_dir(&self.cwd)?;
        *step = 5;
        Err(self.program.execute())
    }
}

/// A program with its arguments and variables, as the kernel takes them.
pub(crate) struct Program<'a> {
    /// Where it may lie, in the order of trying.
    candidates: Vec<CString>,
    argv: Words<'a>,
    env: Words<'a>,
}

impl<'a> Program<'a> {
    /// Looks for it as a shell would: in the PATH of the task's own environment, unless its name has a slash.
    pub(crate) fn new(argv: &'a [CString], env: &'a [CString]) -> Self {
        let name = argv[0].as_bytes();
        let candidates = if name.contains(&b'/') {
            vec![argv[0].clone()]
        } else {
            let path = env.iter().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH=")).unwrap_or_default();
            std::env::split_paths(OsStr::from_bytes(path))
                .filter_map(|dir| CString::new(dir.join(OsStr::from_bytes(name)).as_os_str().as_bytes()).ok())
                .collect()
        };
        Self { candidates, argv: Words::new(argv), env: Words::new(env) }
    }

    /// Returns only why it can't be executed. Takes no memory.
    pub(crate) fn execute(&self) -> io::Error {
        let mut verdict = io::Error::from_raw_os_error(libc::ENOENT);
        for candidate in &self.candidates {
            let error = sys::execute(candidate, &self.argv, &self.env);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                // A file that may not be executed hides no good one further on, but is the better explanation.
                Some(libc::EACCES) => verdict = error,
                _ => return error,
            }
        }
        verdict
    }
}

/// A script without `#!`, as shells and Docker's own init run it.
pub(crate) fn execute_as_script(argv: &[CString], env: &[CString]) -> io::Error {
    let shell = CString::from(c"/bin/sh");
    let words: Vec<CString> = std::iter::once(shell.clone()).chain(argv.iter().cloned()).collect();
    sys::execute(&shell, &Words::new(&words), &Words::new(env))
}

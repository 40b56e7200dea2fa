//! `unidesk-shim init`: the first process of a container of exclusive work. It is what Docker's own init is to other containers: it
//! passes signals on, waits for orphans, leaves the streams alone and ends as its program did. Beside that it holds the lease:
//! the program begins once there is one, and ends with it. When the first process of a container ends, the kernel kills all others.

use crate::{
    child,
    lease::{Due, Lease, SELF_FENCED},
    sys::{self, Status},
};
use std::{
    ffi::{CString, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::ffi::OsStringExt},
};

/// Signals that mean a fault of the shim itself, or its own terminal.
const NOT_PASSED_ON: [i32; 10] = [
    libc::SIGCHLD,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

struct Init {
    signals: File,
    timer: File,
    lease: Lease,
    stop_signal: i32,
    main: Option<i32>,
}

/// `PERIOD_MS GRACE_MS STOP_SIGNAL BOOT_ID -- PROGRAM ARGUMENTS...`. Returns the code to exit with.
pub(crate) fn run(arguments: &[OsString]) -> io::Result<i32> {
    let signals = sys::signals_as_file()?;
    let (settings, argv) = match arguments {
        [period, grace, stop, boot, dashes, argv @ ..] if dashes == "--" && !argv.is_empty() => {
            ([period, grace, stop, boot].map(|word| word.to_str().unwrap_or_default()), argv)
        }
        _ => {
            return Err(io::Error::other(
                "usage: unidesk-shim init PERIOD_MS GRACE_MS STOP_SIGNAL BOOT_ID -- PROGRAM...",
            ));
        }
    };
    let number = |text: &str| text.parse::<u64>().map_err(|_| io::Error::other(format!("{text:?} is no number")));
    // Another kernel has another clock, and a lease by it would mean nothing.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if boot.trim() != settings[3] {
        return Err(io::Error::other(
            "this container does not run on its agent's kernel, so exclusive work can't be guarded here",
        ));
    }
    let argv = argv.iter().map(|word| CString::new(word.clone().into_vec())).collect::<Result<Vec<_>, _>>()?;
    let mut init = Init {
        signals,
        timer: sys::boot_timer()?,
        lease: Lease::new(number(settings[0])?, number(settings[1])?),
        stop_signal: number(settings[2])? as i32,
        main: None,
    };
    if let Some(code) = init.wait_for_lease()? {
        return Ok(code);
    }
    match launch(&argv)? {
        Ok(pid) => init.main = Some(pid),
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.split(" (os error").next().unwrap_or_default();
            eprintln!("[FATAL unidesk-shim] exec {} failed: {reason}", argv[0].to_string_lossy());
            return Ok(match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => 127,
                _ => 126,
            });
        }
    }
    init.supervise()
}

impl Init {
    /// Some: it was told to stop, or no renewal came, before anything began.
    fn wait_for_lease(&mut self) -> io::Result<Option<i32>> {
        let give_up_at = sys::boot_ms() + self.lease.period_ms();
        sys::set_timer(&self.timer, give_up_at)?;
        while !self.lease.is_held() {
            sys::poll([self.signals.as_raw_fd(), self.timer.as_raw_fd()], None);
            while let Some((signal, sender)) = sys::next_signal_from(&self.signals) {
                let is_renewal = sender == 0 && self.lease.renew_by_signal(signal, sys::boot_ms());
                if !is_renewal && !NOT_PASSED_ON.contains(&signal) {
                    return Ok(Some(128 + signal));
                }
            }
            if sys::boot_ms() >= give_up_at && !self.lease.is_held() {
                return Ok(Some(SELF_FENCED));
            }
        }
        Ok(None)
    }

    fn supervise(&mut self) -> io::Result<i32> {
        loop {
            match self.lease.due(sys::boot_ms()) {
                Due::Nothing => {}
                Due::Stop => self.pass_on(self.stop_signal),
                // With this process all others of the container end.
                Due::Kill => return Ok(SELF_FENCED),
            }
            if let Some(at) = self.lease.wakes_at() {
                sys::set_timer(&self.timer, at)?;
            }
            if let Some(status) = self.reap() {
                return Ok(match status {
                    _ if self.lease.is_over() => SELF_FENCED,
                    Status::Exited(code) => code,
                    Status::Signalled(signal) => 128 + signal,
                });
            }
            sys::poll([self.signals.as_raw_fd(), self.timer.as_raw_fd()], None);
            while let Some((signal, sender)) = sys::next_signal_from(&self.signals) {
                // A sender outside of the container has no number inside. What is in it can't prolong its own lease.
                let is_renewal = sender == 0 && self.lease.renew_by_signal(signal, sys::boot_ms());
                // Asked once is enough: many programs take a second time for impatience.
                let is_repeated = self.lease.is_over() && signal == self.stop_signal;
                if !is_renewal && !is_repeated && !NOT_PASSED_ON.contains(&signal) {
                    self.pass_on(signal);
                }
            }
        }
    }

    fn pass_on(&self, signal: i32) {
        if let Some(main) = self.main {
            // It may have ended a moment ago; its number is its own until it is waited for.
            let _ = sys::kill(main, signal);
        }
    }

    /// Waits for all that has ended. Some: the program itself has.
    fn reap(&self) -> Option<Status> {
        let mut ended = None;
        while let Ok(Some(pid)) = sys::ended_child() {
            let status = sys::reap(pid).ok().flatten();
            if Some(pid) == self.main {
                ended = status;
            }
        }
        ended
    }
}

/// Starts the program as a child with the streams and the environment of this process. The inner error: it can't be executed.
fn launch(argv: &[CString]) -> io::Result<Result<i32, io::Error>> {
    let (mut verdict, verdict_writer) = sys::pipe()?;
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(name, value)| {
            let mut entry = name.into_vec();
            entry.push(b'=');
            entry.extend(value.into_vec());
            CString::new(entry).ok()
        })
        .collect();
    match sys::fork()? {
        sys::Forked::Child => {
            let _ = sys::lead_group();
            sys::reset_signals();
            let mut error = child::Program::new(argv, &env).execute();
            if error.raw_os_error() == Some(libc::ENOEXEC) {
                error = child::execute_as_script(argv, &env);
            }
            let _ = (&verdict_writer).write_all(&error.raw_os_error().unwrap_or(libc::EINVAL).to_le_bytes());
            sys::exit_now(127)
        }
        sys::Forked::Parent(pid) => {
            drop(verdict_writer);
            let mut message = Vec::new();
            verdict.read_to_end(&mut message)?;
            Ok(match message.first_chunk() {
                Some(errno) => Err(io::Error::from_raw_os_error(i32::from_le_bytes(*errno))),
                None => Ok(pid),
            })
        }
    }
}

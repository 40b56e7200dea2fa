//! A process that can't be confused with a later one of the same id.

use super::proc_fs;
use nix::{errno::Errno, sys::signal::Signal};
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// As a file of the shim or /proc names it: the id, and the start in clock ticks since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) start: u64,
}

impl Process {
    pub(super) fn is_alive(self) -> bool {
        proc_fs::stat(self.pid).is_some_and(|stat| stat.start == self.start && !stat.is_dead)
    }

    /// Sends a signal to this process or to none.
    pub(super) fn signal(self, signal: Signal) {
        match open(self.pid) {
            // The descriptor is tied to whoever has the id now; only then does the start time prove who that is.
            Ok(pidfd) if self.is_alive() => {
                let _ = send(&pidfd, signal);
            }
            Err(Errno::ENOSYS) if self.is_alive() => {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal);
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// A descriptor that becomes readable when the process ends. None: it has ended, or this kernel can't tell.
    pub(super) fn watch(self) -> Option<AsyncFd<OwnedFd>> {
        let pidfd = open(self.pid).ok()?;
        self.is_alive().then(|| register(pidfd, Interest::READABLE).ok()).flatten()
    }
}

/// A descriptor as the runtime waits for it.
#[expect(unsafe_code, reason = "tokio asks for a promise that the descriptor stays open, which an OwnedFd keeps")]
pub(super) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always names the same open file until it is dropped, and AsyncFd owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

#[expect(unsafe_code, reason = "no safe wrapper of pidfd_open exists in nix or std")]
fn open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes numbers only; the new descriptor is owned by nobody else.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

#[expect(unsafe_code, reason = "no safe wrapper of pidfd_send_signal exists in nix or std")]
fn send(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    // SAFETY: no information is passed, as the null says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as i32,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

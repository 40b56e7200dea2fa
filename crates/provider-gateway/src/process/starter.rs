//! The agent's side of the starter: the process (`unidesk-shim starter`) that forks a supervisor for each attempt. It is started with the
//! first one, and anew when somebody has killed it; supervisors go on without it, and it goes with the agent.

use super::pidfd;
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socketpair},
};
use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::Child,
};

#[derive(Default)]
pub(super) struct Starter {
    running: Mutex<Option<Arc<Running>>>,
}

struct Running {
    requests: AsyncFd<OwnedFd>,
    /// Waited for by the runtime once it is dropped.
    _process: Child,
}

impl Starter {
    /// Has a supervisor forked for the attempt with this file. What becomes of it, the doorbell says, whose other end is given: it closes
    /// when there is no supervisor, or none any more.
    pub(super) async fn ask(&self, shim: &Path, file: &Path, spec: &[u8], bell: BorrowedFd<'_>) -> io::Result<()> {
        let message = [file.as_os_str().as_encoded_bytes(), b"\0", spec].concat();
        let running = self.running(shim)?;
        match running.send(&message, bell).await {
            Err(error) if is_dead(&error) => {
                tracing::warn!("the starter of supervisors has ended; starting another");
                self.forget(&running);
                self.running(shim)?.send(&message, bell).await
            }
            sent => sent,
        }
    }

    fn running(&self, shim: &Path) -> io::Result<Arc<Running>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match &*running {
            Some(running) => running.clone(),
            None => running.insert(Arc::new(Running::start(shim)?)).clone(),
        })
    }

    /// Unless another has taken its place already.
    fn forget(&self, dead: &Arc<Running>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.take_if(|running| Arc::ptr_eq(running, dead));
    }
}

impl Running {
    fn start(shim: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let mut command = tokio::process::Command::new(shim);
        // In a process group of its own, where the terminal's Ctrl-C does not reach it.
        command.arg("starter").env_clear().process_group(0);
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn()?;
        // Our own copy of its end goes with the command, or its death would not be noticed.
        drop(command);
        Ok(Self { requests: pidfd::register(ours, Interest::WRITABLE)?, _process: process })
    }

    async fn send(&self, message: &[u8], bell: BorrowedFd<'_>) -> io::Result<()> {
        let (parts, files) = ([IoSlice::new(message)], [bell.as_raw_fd()]);
        let control = [ControlMessage::ScmRights(&files)];
        self.requests
            .async_io(Interest::WRITABLE, |requests| {
                let fd = requests.as_fd().as_raw_fd();
                Ok(sendmsg::<UnixAddr>(fd, &parts, &control, MsgFlags::MSG_NOSIGNAL, None).map(drop)?)
            })
            .await
    }
}

fn is_dead(error: &io::Error) -> bool {
    let dead = [Errno::EPIPE, Errno::ECONNRESET, Errno::ENOTCONN, Errno::ECONNREFUSED];
    dead.iter().any(|dead| error.raw_os_error() == Some(*dead as i32))
}

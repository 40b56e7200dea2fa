//! The starter: a process that is there already and forks a supervisor for each attempt, which costs a fraction of executing a program.
//!
//! Its standard input is a socket to the agent. A message is the path of an attempt's file, a NUL and the spec; with it comes the doorbell.
//! A supervisor shares nothing with the starter but its code, and goes on without it. The starter ends when the agent's end of the socket is closed; an agent whose starter was killed starts another.
//!
//! A supervisor that gives up, or leaves an attempt to another one, says so through its doorbell.

use crate::{Doorbell, attempt, sys};
use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
};

/// Twice what a spec may have.
const MAX_MESSAGE: usize = 128 * 1024;
const SOCKET: i32 = 0;

pub(crate) fn serve() -> io::Result<()> {
    sys::close_inherited();
    sys::default_signals();
    // None of them means anything here but the end of a child. It is the end of the agent that ends this.
    let signals = sys::signals_as_file()?;
    sys::set_name(c"unidesk-starter");
    std::env::set_current_dir("/")?;
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let [is_asked, has_signal] = sys::poll([SOCKET, signals.as_raw_fd()], None);
        if has_signal {
            let _ = sys::next_signal(&signals);
            while sys::reap_any() {}
        }
        if is_asked {
            let Some((length, bell)) = sys::receive(SOCKET, &mut buffer)? else { return Ok(()) };
            // Nobody waits for what has no doorbell.
            if let Some(bell) = bell {
                start(&buffer[..length], Doorbell(bell), &signals);
            }
        }
    }
}

/// Returns in the starter only.
fn start(message: &[u8], bell: Doorbell, signals: &File) {
    match sys::fork() {
        Ok(sys::Forked::Parent(_)) => {}
        Ok(sys::Forked::Child) => {
            match supervise(message, signals, &bell) {
                Ok(true) => {}
                Ok(false) => bell.leave_to_another(),
                Err(error) => bell.complain(&error),
            }
            sys::exit_now(0)
        }
        Err(error) => bell.complain(&error),
    }
}

fn supervise(message: &[u8], signals: &File, bell: &Doorbell) -> io::Result<bool> {
    sys::set_name(c"unidesk-shim");
    // In the place of the starter's socket, which is no business of this process.
    sys::put_at(bell.0.as_raw_fd(), SOCKET)?;
    // Where no terminal of the agent reaches it.
    sys::lead_group()?;
    let end = message.iter().position(|byte| *byte == 0).ok_or_else(|| io::Error::other("a message without a path"))?;
    attempt(Path::new(OsStr::from_bytes(&message[..end])), &message[end + 1..], signals, bell)
}

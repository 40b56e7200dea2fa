//! A child that dies with this process, also when that is killed.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, Output},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};
use tokio::sync::oneshot;

/// Starts it so that the kernel sends it SIGINT when the thread that called this ends.
#[expect(unsafe_code, reason = "only between fork and exec can a child ask the kernel to be ended with its parent")]
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn()
}

/// Sends SIGTERM to what nobody waits for any more.
struct Ended(Arc<AtomicI32>);

impl Drop for Ended {
    fn drop(&mut self) {
        let pid = self.0.load(Ordering::SeqCst);
        if pid != 0 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}

/// Runs it to its end on a thread of its own: the kernel's promise is tied to the thread that started it. Dropped, it is ended.
pub(crate) async fn output(mut command: Command) -> io::Result<Output> {
    let running = Ended(Arc::new(AtomicI32::new(0)));
    let pid = running.0.clone();
    let (sender, ended) = oneshot::channel();
    std::thread::Builder::new().name("postgres-program".into()).spawn(move || {
        let outcome = spawn(&mut command).and_then(|child| {
            pid.store(child.id() as i32, Ordering::SeqCst);
            child.wait_with_output()
        });
        pid.store(0, Ordering::SeqCst);
        let _ = sender.send(outcome);
    })?;
    ended.await.unwrap_or_else(|_| Err(io::Error::other("its thread is gone")))
}

//! The agent's side of `unidesk-shim`: its spec, its doorbell.

use super::{
    ProcessExecutor,
    environment::environment,
    proc_fs, scratch,
    state::{Record, STATE},
};
use crate::executor::{Failure, Job, JobLease};
use domain::spec::Network;
use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        socket::{AddressFamily, SockFlag, SockType, socketpair},
    },
};
use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    str::FromStr,
    sync::PoisonError,
    time::{Duration, Instant},
};
use tokio::net::UnixStream;

/// Bytes that the shim keeps beyond a task's log limit: enough for the log itself to see that there was more.
const BEYOND_LOG_LIMIT: u64 = 1;

/// What was known of the kernel's kills a moment ago is good enough for a new process.
const KILLS_COUNT_FOR: Duration = Duration::from_millis(200);

/// A shim that this agent had started. Rings whenever its file has grown; closed when it is gone.
pub(super) struct Doorbell {
    rings: UnixStream,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rang {
    Again,
    /// It gives up, and why.
    Failed(String),
    /// It leaves the attempt to another shim, which has it.
    Elsewhere,
    Closed,
}

impl Doorbell {
    /// Waits for the next ring. Several at once count as one. Dropping the future loses none.
    pub(super) async fn wait(&self) -> Rang {
        let mut rings = [0; 512];
        loop {
            if self.rings.readable().await.is_err() {
                return Rang::Closed;
            }
            match self.rings.try_read(&mut rings) {
                Ok(count) => return Rang::of(&rings[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Rang::Closed,
            }
        }
    }

    /// The exit is on disk with the agent, so the shim may go. Repeated or late, it does no harm.
    pub(super) fn answer(&self) {
        let _ = self.rings.try_write(b"k");
    }

    /// Waits until the shim has left its file, and is gone or on its way.
    pub(super) async fn closed(&self) {
        while self.wait().await != Rang::Closed {}
    }
}

impl Rang {
    /// As the shim says it: `!` for a ring, at its end `o` or `x` with a reason.
    fn of(said: &[u8]) -> Self {
        let Some(last) = said.iter().position(|byte| *byte != b'!') else {
            return if said.is_empty() { Self::Closed } else { Self::Again };
        };
        match &said[last..] {
            [b'o', ..] => Self::Elsewhere,
            [_, why @ ..] => Self::Failed(String::from_utf8_lossy(why).into_owned()),
            [] => Self::Again,
        }
    }
}

impl ProcessExecutor {
    /// The supervisor's binary.
    ///
    /// Errors: the node's fault, with what its owner can do.
    pub(super) fn shim(&self) -> Result<PathBuf, Failure> {
        if let Some(found) = self.shared.shim.get() {
            return Ok(found.clone());
        }
        let shim = match &self.shared.settings.shim {
            Some(shim) => shim.clone(),
            None => {
                let program = std::env::current_exe().map_err(|error| {
                    Failure::node(format!("The agent can't tell where its own program lies: {error}."))
                })?;
                // Without libraries it starts in half of the time. One that an installation forgot to replace is no match for this agent.
                let [plain, without_libraries] =
                    ["unidesk-shim", "unidesk-shim-static"].map(|name| program.with_file_name(name));
                let age = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
                if age(&without_libraries) >= age(&plain) && without_libraries.is_file() {
                    without_libraries
                } else {
                    plain
                }
            }
        };
        if shim.is_file() {
            return Ok(self.shared.shim.get_or_init(|| shim).clone());
        }
        Err(Failure::node(format!(
            "The supervisor of processes is missing at {}. Install unidesk-shim beside the agent's program.",
            shim.display()
        )))
    }
}

/// Has a shim started. Returns as soon as that is asked for; its doorbell tells the rest.
pub(super) async fn spawn(executor: &ProcessExecutor, job: &Job, record: &Record) -> Result<Doorbell, Failure> {
    let shim = executor.shim()?;
    let failed = |what: &str, error: io::Error| Failure::node(format!("{what} failed on this node: {error}."));
    let spec = spec_text(executor, job, record).map_err(|error| failed("Writing down what to run", error))?;
    // The shim never waits for an agent that does not look, and we never block either.
    let (rings, theirs) = bell().map_err(|error| failed("Opening a pair of sockets", error))?;
    let asked = executor.shared.starter.ask(&shim, &job.dir.join(STATE), &spec, theirs.as_fd()).await;
    asked.map_err(|error| failed(&format!("Having {} start a supervisor", shim.display()), error))?;
    // With `theirs` goes our own copy of their end, or the bell would never close.
    Ok(Doorbell { rings })
}

fn bell() -> io::Result<(UnixStream, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    Ok((UnixStream::from_std(ours.into())?, theirs))
}

/// Counts how often the kernel has run out of memory, now and then.
#[derive(Default)]
pub(super) struct KernelKills {
    known: Option<(Instant, u64)>,
}

impl KernelKills {
    fn count(&mut self) -> u64 {
        match self.known {
            Some((at, count)) if at.elapsed() < KILLS_COUNT_FOR => count,
            _ => self.known.insert((Instant::now(), proc_fs::kernel_kills())).1,
        }
    }
}

/// The spec as the shim reads it.
fn spec_text(executor: &ProcessExecutor, job: &Job, record: &Record) -> io::Result<Vec<u8>> {
    let settings = &executor.shared.settings;
    let kernel_kills = executor.shared.kernel_kills.lock().unwrap_or_else(PoisonError::into_inner).count();
    let spec = &job.spec;
    let below = scratch::below_workspace(&spec.workdir).unwrap_or_default();
    let mut text = Vec::new();
    let mut add = |key: &str, value: &str| {
        text.extend_from_slice(key.as_bytes());
        text.push(b'=');
        text.extend_from_slice(value.as_bytes());
        text.push(0);
    };
    for word in spec.command.argv() {
        add("arg", &word);
    }
    for (name, value) in environment(job, record, settings) {
        add("env", &format!("{name}={value}"));
    }
    add("cwd", &record.work().join(below).display().to_string());
    add("stop_signal", &(stop_signal(&spec.stop.signal) as i32).to_string());
    add("memory_limit_bytes", &spec.requirements.amounts.memory_bytes.to_string());
    add("memory_period_ms", &settings.memory_period.as_millis().to_string());
    add("kernel_kills", &kernel_kills.to_string());
    add("log_limit_bytes", &spec.log_limit_bytes.saturating_add(BEYOND_LOG_LIMIT).to_string());
    add("max_open_files", &settings.max_open_files.to_string());
    if let Some(uid) = record.uid {
        add("uid", &uid.to_string());
        add("max_processes", &settings.max_processes.to_string());
    }
    if let Some(lease) = &job.lease {
        write_lease(&job.dir, lease)?;
        add("lease_file", &lease_file(&job.dir).display().to_string());
        add("lease_period_ms", &lease.terms.period_ms.to_string());
        add("lease_grace_ms", &lease.terms.grace_ms.to_string());
    }
    if spec.network == Network::None {
        add("network", "none");
    }
    Ok(text)
}

fn lease_file(job_dir: &Path) -> PathBuf {
    job_dir.join("lease")
}

/// Writes down when the last acknowledged heartbeat was sent; the shim reads it when the lease that it knows of ends. The shim stands
/// on the same kernel, so the moment itself can be handed over.
pub(super) fn write_lease(job_dir: &Path, lease: &JobLease) -> io::Result<()> {
    // One at a time: of two, the first to rename took the other's file away; and the newest word must be the last.
    let _writing = lease.writing();
    let unfinished = job_dir.join("lease.new");
    fs::write(&unfinished, lease.renewed_at().to_string())?;
    fs::rename(unfinished, lease_file(job_dir))
}

fn stop_signal(name: &str) -> Signal {
    // Specs know a few names only, and all of them are signals.
    Signal::from_str(name).unwrap_or(Signal::SIGTERM)
}

/// Stop, as the shim understands it.
pub(super) const STOP: Signal = Signal::SIGTERM;
/// Kill the whole tree, as the shim understands it.
pub(super) const KILL: Signal = Signal::SIGUSR1;

/// The lease was renewed: of interest to a shim that waits for the first one.
pub(super) const RENEWED: Signal = Signal::SIGUSR2;

/// Whether a missing file is all that went wrong.
pub(super) fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ENOENT as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::lease::Lease;
    use std::thread;

    #[test]
    fn a_heartbeat_that_is_acknowledged_during_the_start_does_not_spoil_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let lease = JobLease::new(Lease { period_ms: 85_000, grace_ms: 8_000 });
        thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (dir, lease) = (dir.path(), lease.clone());
                scope.spawn(move || {
                    for beat in 0..500 {
                        lease.renew(4 * beat + thread);
                        write_lease(dir, &lease).expect("written, whoever else writes it");
                    }
                });
            }
        });
        let written = fs::read_to_string(lease_file(dir.path())).expect("there");
        assert_eq!(written, "1999", "the newest word is the last");
    }
}

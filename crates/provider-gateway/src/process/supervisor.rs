//! The agent's side of `unidesk-shim`: its directory, its spec, its doorbell.

use super::{ProcessExecutor, environment::environment, pidfd::Process, record::Record, scratch};
use crate::executor::{Failure, Job, JobLease};
use domain::spec::Network;
use nix::{errno::Errno, fcntl::OFlag, sys::signal::Signal};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    str::FromStr,
};
use tokio::{net::unix::pipe, process::Child};

/// Bytes that the shim keeps beyond a task's log limit: enough for the log itself to see that there was more.
const BEYOND_LOG_LIMIT: u64 = 1;

/// Where an attempt's shim and the agent meet. Only the agent's user may look inside.
pub(super) fn dir(job_dir: &Path) -> PathBuf {
    job_dir.join("shim")
}

/// The process that a file of the shim names.
pub(super) fn read_process(shim_dir: &Path, file: &str) -> Option<Process> {
    let text = fs::read_to_string(shim_dir.join(file)).ok()?;
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some(Process { pid: field("pid")?.parse().ok()?, start: field("pid_start")?.parse().ok()? })
}

/// A shim that this agent started. Rings whenever one of its files has grown; closed when it is gone.
pub(super) struct Doorbell {
    rings: pipe::Receiver,
    shim: tokio::sync::Mutex<Child>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rang {
    Again,
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
                Ok(0) => return Rang::Closed,
                Ok(_) => return Rang::Again,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Rang::Closed,
            }
        }
    }

    /// Waits until the shim has ended and its process id is free. False: it ended with a complaint.
    pub(super) async fn shim_ended(&self) -> bool {
        self.shim.lock().await.wait().await.is_ok_and(|status| status.success())
    }
}

impl ProcessExecutor {
    /// The supervisor's binary.
    ///
    /// Errors: the node's fault, with what its owner can do.
    pub(super) fn shim(&self) -> Result<PathBuf, Failure> {
        let shim = match &self.shared.settings.shim {
            Some(shim) => shim.clone(),
            None => std::env::current_exe()
                .map_err(|error| Failure::node(format!("The agent can't tell where its own program lies: {error}.")))?
                .with_file_name("unidesk-shim"),
        };
        if shim.is_file() {
            return Ok(shim);
        }
        Err(Failure::node(format!(
            "The supervisor of processes is missing at {}. Install unidesk-shim beside the agent's program.",
            shim.display()
        )))
    }
}

/// Writes the spec and starts a shim with it. Returns as soon as it is executed; its doorbell tells the rest.
pub(super) fn spawn(executor: &ProcessExecutor, job: &Job, record: &Record) -> Result<Doorbell, Failure> {
    let shim = executor.shim()?;
    let dir = dir(&job.dir);
    let failed = |what: &str, error: io::Error| Failure::node(format!("{what} failed on this node: {error}."));
    let errors = write_spec(executor, job, record, &dir).map_err(|error| failed("Writing down what to run", error))?;
    // The shim must never wait for an agent that does not look; we must never block either.
    let (receiver, sender) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .map_err(|error| failed("Opening a pipe", error.into()))?;
    // In a process group of its own, where the terminal's Ctrl-C does not reach it.
    let mut command = tokio::process::Command::new(&shim);
    command.arg("run").arg(&dir).env_clear().current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::from(sender)).stderr(Stdio::from(errors));
    let starting = format!("Starting {}", shim.display());
    let shim = command.spawn().map_err(|error| failed(&starting, error))?;
    // Our own copy of the sender must go, or the bell would never close.
    drop(command);
    let rings = pipe::Receiver::from_owned_fd(receiver).map_err(|error| failed("Opening a pipe", error))?;
    Ok(Doorbell { rings, shim: tokio::sync::Mutex::new(shim) })
}

/// What the shim said before it gave up.
pub(super) fn complaint(shim_dir: &Path) -> String {
    let said = fs::read_to_string(shim_dir.join("errors")).unwrap_or_default();
    let said = if said.trim().is_empty() { "it said nothing" } else { said.trim() };
    format!("The supervisor of the process ended before the process began: {said}.")
}

/// The spec as the shim reads it, and the file for its complaints.
fn write_spec(executor: &ProcessExecutor, job: &Job, record: &Record, dir: &Path) -> io::Result<File> {
    let settings = &executor.shared.settings;
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
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
    let private =
        |name: &str| OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join(name));
    // Whole at once, so that a start that is repeated too early takes nothing from under a shim that reads.
    private("spec.new")?.write_all(&text)?;
    fs::rename(dir.join("spec.new"), dir.join("spec"))?;
    private("errors")
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

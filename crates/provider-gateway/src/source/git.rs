//! The hardened `git` command: a clean environment, no configuration but ours, no prompts, and a whole process group that
//! dies with the future that waits for it.

use super::askpass::Asked;
use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
    process::{ExitStatus, Stdio},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

/// More than any answer that is read here; what goes beyond is dropped, so that a talkative host fills no memory.
const MAX_OUTPUT_BYTES: u64 = 1 << 20;

/// What a node behind a proxy or with a certificate authority of its own needs. Everything else of our environment stays here.
const PASSED_ON: [&str; 11] = [
    "PATH",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
];

const SETTINGS: &[&str] = &[
    "protocol.version=2",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "credential.helper=",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "http.followRedirects=initial",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
    // Every fetch is one pack: its size is the figure that is shown, and its checksum finds a torn write.
    "fetch.unpackLimit=1",
    "transfer.fsckObjects=true",
    // Blemishes of old but honest history that harm nobody who only reads the trees. Without these, well-known repositories fail.
    "fetch.fsck.zeroPaddedFilemode=ignore",
    "fetch.fsck.badDate=ignore",
    "fetch.fsck.badDateOverflow=ignore",
    "fetch.fsck.badTimezone=ignore",
    "fetch.fsck.badEmail=ignore",
    "fetch.fsck.missingEmail=ignore",
    "fetch.fsck.missingNameBeforeEmail=ignore",
    "fetch.fsck.missingSpaceBeforeDate=ignore",
    "fetch.fsck.missingSpaceBeforeEmail=ignore",
    "fetch.fsck.multipleAuthors=ignore",
    "fetch.fsck.badTagName=ignore",
    "fetch.fsck.missingTaggerEntry=ignore",
    "fetch.fsck.gitmodulesParse=ignore",
];

/// What one run of git printed, and how it ended.
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// One invocation: `git <settings> --git-dir=<repository> <arguments>`.
pub(super) struct Git {
    command: Command,
}

impl Git {
    /// For the network only over https, and over http when `allow_http`.
    pub(super) fn new(repository: &Path, allow_http: bool) -> Self {
        let mut command = Command::new("git");
        command.env_clear();
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_ALLOW_PROTOCOL", if allow_http { "http:https" } else { "https" })
            // No .netrc, and messages in the language that `verdict` reads.
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C");
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        let mut git_dir = OsString::from("--git-dir=");
        git_dir.push(repository);
        command.arg(git_dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).process_group(0);
        Self { command }
    }

    pub(super) fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Lets git ask for the credential of one host.
    pub(super) fn asking(mut self, asked: Option<&Asked>) -> Self {
        for (name, value) in asked.into_iter().flat_map(Asked::environment) {
            self.command.env(name, value);
        }
        self
    }

    /// Prints every packet of the protocol to stderr.
    pub(super) fn tracing_packets(mut self) -> Self {
        self.command.env("GIT_TRACE_PACKET", "1");
        self
    }

    /// Runs to the end. Dropping the future kills git and all that it started.
    pub(super) async fn run(mut self) -> io::Result<Output> {
        let mut child = self.command.spawn()?;
        let group = Group(child.id());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr) = tokio::join!(bounded(stdout), bounded(stderr));
        let status = child.wait().await?;
        group.disarm();
        Ok(Output { status, stdout: stdout?, stderr: stderr? })
    }
}

/// The first [`MAX_OUTPUT_BYTES`]; the rest is read and dropped, so that the writer never blocks.
async fn bounded(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut kept = Vec::new();
    if let Some(mut pipe) = pipe {
        (&mut pipe).take(MAX_OUTPUT_BYTES).read_to_end(&mut kept).await?;
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

/// Kills the process group when dropped. git's transport is a child of git's; killing only git would leave it running.
struct Group(Option<u32>);

impl Group {
    /// The leader is reaped: from now on the number may belong to somebody else.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // It may be gone already, which is what is wanted.
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(leader), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

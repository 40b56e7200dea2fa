//! The programs that people start, built when they are older than their sources.

use crate::until::{until, until_true};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

/// A program answers, or ends, within this.
const SOON: Duration = Duration::from_secs(60);

/// `unidesk`, with `unidesk-shim` beside it.
pub(crate) fn unidesk() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // Tests lie in `target/PROFILE/deps`.
        let test = std::env::current_exe().expect("this program has a path");
        let profile = test.parent().and_then(Path::parent).expect("a target directory").to_owned();
        // A test of an older platform than the one in the sources would say nothing. When all is built this takes 0.2 s.
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "unidesk", "-p", "shim", "--bins"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(status.expect("cargo runs").success(), "unidesk does not build");
        profile.join("unidesk")
    })
}

pub(crate) fn shim() -> PathBuf {
    unidesk().with_file_name("unidesk-shim")
}

/// `unidesk` with these arguments and nothing of the caller's own settings.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(unidesk());
    command.args(arguments);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UNIDESK_")) {
        command.env_remove(name);
    }
    command
}

/// The agent of a node with this token.
pub(crate) fn provider(url: &str, token: &str, dir: &Path) -> Command {
    fs::create_dir_all(dir).expect("making the agent's directory");
    let token_file = dir.join("token");
    fs::write(&token_file, token).expect("writing the token");
    let mut command = command(&["provider", "--server", url]);
    command.arg("--token-file").arg(token_file).arg("--data-dir").arg(dir);
    command
}

/// A running program; killed when dropped.
pub(crate) struct Program {
    child: Child,
    said: Arc<Mutex<String>>,
    what: String,
}

impl Program {
    /// Starts it and returns when it says that it is ready.
    pub(crate) async fn start(command: Command) -> Self {
        let mut program = Self::spawn(command);
        // Not the word alone: at `debug` the SQL of migrations is logged, comments and all.
        program.until_it_said("ready ...", SOON, |said| said.lines().any(|line| line.starts_with("ready "))).await;
        program
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let what = format!("{:?}", command.get_args().next().unwrap_or_default());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("unidesk starts");
        let said: Arc<Mutex<String>> = Arc::default();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        for stream in streams {
            let said = said.clone();
            // Ends with the program, whose output must not fill a pipe.
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream);
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    *said.lock().unwrap_or_else(PoisonError::into_inner) += &String::from_utf8_lossy(&line);
                    line.clear();
                }
            });
        }
        Self { child, said, what }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// All that it printed so far, both streams together.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The address in its ready line.
    pub(crate) fn url(&self) -> String {
        let said = self.said();
        let line = said.lines().find(|line| line.starts_with("ready ")).expect("it is ready");
        line.split_whitespace().nth(1).expect("an address").to_owned()
    }

    pub(crate) async fn until_said(&mut self, text: &str, within: Duration) {
        self.until_it_said(text, within, |said| said.contains(text)).await;
    }

    async fn until_it_said(&mut self, text: &str, within: Duration, is_said: impl Fn(&str) -> bool) {
        let deadline = tokio::time::Instant::now() + within;
        while !is_said(&self.said()) {
            let ended = self.child.try_wait().expect("its state");
            let is_late = tokio::time::Instant::now() >= deadline;
            assert!(ended.is_none() && !is_late, "{} did not say {text:?} ({ended:?}):\n{}", self.what, self.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it lives");
    }

    pub(crate) async fn ended(&mut self, within: Duration) -> ExitStatus {
        let what = format!("{} ends", self.what);
        let child = Mutex::new(&mut self.child);
        until(&what, within, async || {
            child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().expect("its state")
        })
        .await
    }

    /// As a person ends it.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.ended(SOON).await
    }

    /// As a power cut ends it.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended(SOON).await;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}", self.what, self.said());
        }
    }
}

pub(crate) fn is_alive(pid: i32) -> bool {
    // A zombie has a directory too, but has ended.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

pub(crate) async fn until_gone(pid: i32) {
    until_true(&format!("process {pid} is gone"), SOON, || !is_alive(pid)).await;
}

//! A Docker daemon of the test's own, beside the machine's. Needs root, `dockerd` and `ip`.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const UP_WITHIN: Duration = Duration::from_secs(60);
const DOWN_WITHIN: Duration = Duration::from_secs(30);
/// Before the process's id, in the names of what a killed test leaves behind.
const DIR: &str = "unidesk-dockerd-";
const BRIDGE: &str = "udtest";

/// Ends with its containers when dropped. The same value may be stopped and started again.
pub(crate) struct Dockerd {
    child: Child,
    bridge: Bridge,
    data_root: PathBuf,
    /// Socket, log, and what belongs to one run.
    dir: tempfile::TempDir,
}

/// Steps of a build want a network, and a daemon without any rules of iptables can't share the machine's own.
struct Bridge(String);

impl Bridge {
    fn new() -> Self {
        let bridge = Self(format!("{BRIDGE}{}", std::process::id()));
        run("ip", &["link", "add", &bridge.0, "type", "bridge"]);
        run("ip", &["addr", "add", &format!("172.31.{}.1/24", std::process::id() % 256), "dev", &bridge.0]);
        bridge
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = quiet("ip", &["link", "del", &self.0]).status();
    }
}

impl Dockerd {
    /// Keeps its data in a temporary directory.
    pub(crate) async fn new() -> Self {
        Self::in_dir(temporary_dir(), None).await
    }
    /// Keeps its data below `data`.
    pub(crate) async fn with_data(data: &Path) -> Self {
        Self::in_dir(temporary_dir(), Some(data.join("docker"))).await
    }

    async fn in_dir(dir: tempfile::TempDir, data_root: Option<PathBuf>) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test starts a Docker daemon of its own, and only root can: run the tests as root"
        );
        let bridge = Bridge::new();
        let data_root = data_root.unwrap_or_else(|| dir.path().join("root"));
        let child = spawn(dir.path(), &data_root, &bridge);
        let mut daemon = Self { child, bridge, data_root, dir };
        daemon.is_up().await;
        let image = test_kit::docker::busybox().await;
        let load = format!("docker save {image} | docker -H {} load", daemon.host());
        run("sh", &["-c", &load]);
        daemon
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }
    fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }
    /// What the `docker` command prints of this daemon. Fails when it fails.
    pub(crate) fn docker(&self, args: &[&str]) -> String {
        let output = Command::new("docker").args(["-H", &self.host()]).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    async fn is_up(&mut self) {
        let began = Instant::now();
        while !quiet("docker", &["-H", &self.host(), "info"]).status().unwrap().success() {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("dockerd ended at once ({status}):\n{}", log());
            }
            assert!(began.elapsed() < UP_WITHIN, "dockerd did not come up within {UP_WITHIN:?}:\n{}", log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// `-STOP` and `-CONT`: hangs it, and wakes it.
    pub(crate) fn signal(&self, signal: &str) {
        run("kill", &[signal, &self.child.id().to_string()]);
    }
    /// Ends the daemon by this signal (`-TERM`, `-KILL`).
    pub(crate) async fn stop(&mut self, signal: &str) {
        run("kill", &[signal, &self.child.id().to_string()]);
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < DOWN_WITHIN, "dockerd did not end within {DOWN_WITHIN:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Its containerd died with it; where nobody reaps that one, the next daemon would take it for alive.
        let _ = std::fs::remove_file(self.dir.path().join("exec/containerd/containerd.pid"));
    }

    pub(crate) async fn restart(&mut self) {
        self.child = spawn(self.dir.path(), &self.data_root, &self.bridge);
        self.is_up().await;
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let _ = quiet("kill", &["-CONT", &self.child.id().to_string()]).status();
        let remove = format!("docker -H {0} ps -aq | xargs -r docker -H {0} rm -f", self.host());
        let _ = quiet("timeout", &["20", "sh", "-c", &remove]).status();
        let _ = quiet("kill", &["-TERM", &self.child.id().to_string()]).status();
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if began.elapsed() > DOWN_WITHIN {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // What a killed daemon left mounted.
        unmount_below(self.dir.path());
        unmount_below(&self.data_root);
    }
}

/// Ends with the thread that calls this, even when that is killed: call it from the test's own.
fn spawn(dir: &Path, data_root: &Path, bridge: &Bridge) -> Child {
    let path = |name: &str| dir.join(name).display().to_string();
    let log = std::fs::File::options().create(true).append(true).open(path("log")).unwrap();
    Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "dockerd", "--data-root", &data_root.display().to_string()])
        .args(["--exec-root", &path("exec"), "--pidfile", &path("pid")])
        .args(["-H", &format!("unix://{}", path("docker.sock"))])
        .args(["--iptables=false", "--ip-masq=false", "--bridge", &bridge.0])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// One that the next test clears if this one is killed.
pub(crate) fn temporary_dir() -> tempfile::TempDir {
    let is_of_a_dead_run = |name: &str, prefix: &str| {
        let pid = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next());
        pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
    };
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        if is_of_a_dead_run(&entry.file_name().to_string_lossy(), DIR) {
            unmount_below(&entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    for entry in std::fs::read_dir("/sys/class/net").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_of_a_dead_run(&name, BRIDGE) {
            let _ = quiet("ip", &["link", "del", &name]).status();
        }
    }
    tempfile::Builder::new().prefix(&format!("{DIR}{}-", std::process::id())).tempdir().unwrap()
}

/// The innermost first; what is still in use, once it is no more.
pub(crate) fn unmount_below(root: &Path) {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut points: Vec<&str> = points.filter(|point| Path::new(point).starts_with(root)).collect();
    points.sort_unstable();
    for point in points.into_iter().rev() {
        if !quiet("umount", &[point]).status().is_ok_and(|status| status.success()) {
            let _ = quiet("umount", &["-l", point]).status();
        }
    }
}

fn quiet(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Fails with what the command says when it fails.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program} can't be run, which this test needs: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
}

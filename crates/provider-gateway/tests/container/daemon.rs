//! A Docker daemon of its own, stopped and killed under running containers. Needs root, `dockerd` and `ip`; slow, so only on demand.

use crate::rig::Rig;
use domain::{node::Condition, outcome::FailureKind};
use protocol::Stream;
use provider_gateway::executor::{Executor, Failure};
use serde_json::json;
use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

struct Daemon {
    dir: tempfile::TempDir,
    bridge: String,
    child: Child,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

impl Daemon {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bridge = format!("ud{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        assert!(run("ip", &["link", "add", &bridge, "type", "bridge"]), "needs root and `ip`");
        assert!(run("ip", &["addr", "add", "172.31.77.1/24", "dev", &bridge]));
        let child = Self::start(&dir, &bridge);
        let daemon = Self { dir, bridge, child };
        daemon.wait();
        let load = format!("docker save unidesk-test/busybox:latest | docker -H {} load", daemon.host());
        assert!(run("sh", &["-c", &load]));
        daemon
    }
    fn start(dir: &tempfile::TempDir, bridge: &str) -> Child {
        let path = |name: &str| dir.path().join(name).display().to_string();
        let log = std::fs::File::options().create(true).append(true).open(path("log")).unwrap();
        Command::new("dockerd")
            .args(["--data-root", &path("root"), "--exec-root", &path("exec"), "--pidfile", &path("pid")])
            .args([
                "-H",
                &format!("unix://{}", path("docker.sock")),
                "--iptables=false",
                "--ip-masq=false",
                "-b",
                bridge,
            ])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }
    fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }
    fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }
    fn wait(&self) {
        let began = Instant::now();
        while !run("docker", &["-H", &self.host(), "info"]) {
            assert!(began.elapsed() < Duration::from_secs(60), "dockerd did not come up");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    fn stop(&mut self, signal: &str) {
        assert!(run("kill", &[signal, &self.child.id().to_string()]));
        self.child.wait().unwrap();
        // Its containerd died with it; where nobody reaps that one, the next daemon would take it for alive.
        let _ = std::fs::remove_file(self.dir.path().join("exec/containerd/containerd.pid"));
    }
    fn restart(&mut self) {
        self.child = Self::start(&self.dir, &self.bridge);
        self.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        run("sh", &["-c", &format!("docker -H {0} ps -aq | xargs -r docker -H {0} rm -f", self.host())]);
        run("kill", &["-TERM", &self.child.id().to_string()]);
        let _ = self.child.wait();
        run("ip", &["link", "del", &self.bridge]);
        // What a killed daemon left mounted.
        let left = format!("grep -o '{}[^ ]*' /proc/mounts | sort -r | xargs -r -n1 umount", self.dir.path().display());
        run("sh", &["-c", &left]);
    }
}

#[tokio::test]
#[ignore = "starts a second dockerd: needs root and takes half a minute"]
async fn a_container_that_went_down_with_docker_is_not_the_tasks_failure() {
    let mut daemon = tokio::task::spawn_blocking(Daemon::new).await.unwrap();
    let socket = daemon.socket();
    let rig = Rig::with(|settings| settings.socket = socket);
    let environment = rig.environment("FROM unidesk-test/busybox:latest\n");
    // One that ends with success when it is asked to stop, one that does not listen, one that is over before.
    let polite = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    let job = |line: &str| rig.job(&environment, &[], json!({"command": line, "network": "none"}));
    for signal in ["-TERM", "-KILL"] {
        let attempts = [job(polite), job(deaf), job("exit 7")];
        for attempt in &attempts {
            rig.executor.prepare(&attempt.job).await.unwrap();
            rig.executor.start(&attempt.job).await.unwrap();
        }
        let collecting = futures::future::join_all(attempts.iter().map(|attempt| rig.executor.collect(&attempt.job)));
        tokio::pin!(collecting);
        let all_are_ready = crate::rig::until("all are ready", || {
            attempts[..2].iter().all(|attempt| attempt.text(Stream::Stdout).contains("ready"))
        });
        tokio::select! {
            _ = &mut collecting => panic!("two of them run on"),
            () = async { all_are_ready.await; tokio::time::sleep(Duration::from_secs(1)).await } => {}
        }
        let stopping = tokio::task::spawn_blocking(move || {
            daemon.stop(signal);
            daemon
        });
        tokio::select! {
            ends = &mut collecting => panic!("nothing can be known yet: {ends:?}"),
            stopped = stopping => daemon = stopped.unwrap(),
        }
        assert_eq!(rig.executor.health().await, Some(Condition::DockerUnavailable));
        let starting = tokio::task::spawn_blocking(move || {
            daemon.restart();
            daemon
        });
        let (ends, started) = tokio::join!(&mut collecting, starting);
        daemon = started.unwrap();
        for end in &ends[..2] {
            let Err(Failure { kind: FailureKind::NodeError, message }) = end else { panic!("{signal}: {ends:?}") };
            assert!(message.contains("Docker was restarted"), "{message}");
        }
        assert_eq!(ends[2].as_ref().unwrap().code, Some(7), "{signal}");
        // An agent that comes up only now judges the one that was killed alike.
        let again =
            provider_gateway::container::ContainerExecutor::new(rig.settings.clone(), rig.trees.clone()).unwrap();
        assert!(again.collect(&attempts[1].job).await.is_err(), "{signal}");
        assert_eq!(again.collect(&attempts[2].job).await.unwrap().code, Some(7), "{signal}");
        for attempt in &attempts {
            rig.executor.remove(&attempt.job).await.unwrap();
        }
    }
}

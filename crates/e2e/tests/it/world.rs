//! A platform of a test's own: everything in this process, on directories that nobody else uses.

use crate::{
    programs,
    story::{self, Stories},
    task::Body,
    until::{until, until_true},
};
use api_types::{
    audit::InvariantState,
    log::LogQuery,
    node::Node,
    task::{Task, TaskQuery},
    why::Why,
};
use client::Client;
use domain::ids::TaskId;
use futures::TryStreamExt;
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;
use test_kit::git_host::{GitHost, HostedRepository};
use unidesk::standalone::{self, Options, Platform};

/// A task of these tests ends within this, also on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A Git server with an environment and some code.
pub(crate) struct Repositories {
    pub(crate) host: GitHost,
    pub(crate) environment: HostedRepository,
    pub(crate) environment_commit: String,
    pub(crate) code: HostedRepository,
    pub(crate) code_commit: String,
}

impl Repositories {
    pub(crate) async fn start() -> Self {
        let image = test_kit::docker::busybox().await;
        let host = GitHost::start();
        let environment = host.repository("environment");
        let dockerfile = format!("FROM {image}\nRUN echo made > /made\n");
        let environment_commit = environment.commit(&[("Dockerfile", dockerfile.as_str().into())], "An environment");
        let code = host.repository("code");
        let code_commit = code.commit(&[("greeting.txt", "hello from the commit\n".into())], "Some code");
        Self { host, environment, environment_commit, code, code_commit }
    }
}

/// Where a platform keeps everything, and what it leaves outside: containers and images, found by their label.
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    pub(crate) fn create() -> Self {
        // A short path (a socket's path has 107 bytes) that other users pass through: PostgreSQL and tasks have users of their own.
        let dir = tempfile::Builder::new().prefix("ud-").tempdir_in("/tmp").expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("setting permissions");
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Directories of agents: those of `up`, and those that a test gave to `unidesk provider`.
    fn agents(&self) -> Vec<PathBuf> {
        let under = |parent: &Path| {
            fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
        };
        // Below the data directory of `up`, wherever a test has put that here.
        let (mut all, mut level) = (Vec::new(), vec![self.path().to_owned()]);
        for _ in 0..3 {
            level = level.iter().flat_map(|parent| under(parent)).collect();
            all.extend(level.iter().cloned());
        }
        all.into_iter().filter(|path| path.join("instance").exists()).collect()
    }

    /// The ids by which containers and images here are known.
    pub(crate) fn instances(&self) -> Vec<String> {
        self.agents()
            .iter()
            .filter_map(|agent| Some(fs::read_to_string(agent.join("instance")).ok()?.trim().to_owned()))
            .collect()
    }

    /// Attempts that have a directory on a node.
    pub(crate) fn attempts(&self) -> Vec<PathBuf> {
        let of = |agent: PathBuf| {
            let entries =
                fs::read_dir(agent.join("attempts")).into_iter().flatten().flatten().map(|entry| entry.path());
            // The room that is kept for results lies there too.
            entries.filter(|path| path.is_dir())
        };
        self.agents().into_iter().flat_map(of).collect()
    }

    /// Ids of containers, running or not.
    pub(crate) fn containers(&self) -> Vec<String> {
        self.instances()
            .iter()
            .flat_map(|instance| docker(&["ps", "-aq", "--filter", &format!("label=unidesk.instance={instance}")]))
            .collect()
    }

    /// Of inputs.
    fn volumes(&self) -> Vec<String> {
        let of =
            |instance: &String| docker(&["volume", "ls", "-q", "--filter", &format!("label=unidesk.input={instance}")]);
        self.instances().iter().flat_map(of).collect()
    }

    pub(crate) fn images(&self) -> Vec<String> {
        self.instances()
            .iter()
            .flat_map(|instance| docker(&["images", "-q", "--filter", &format!("label=unidesk.instance={instance}")]))
            .collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What a failed test left running: processes first, by the supervisors that the attempts name.
        for attempt in self.attempts() {
            // The page of the shim; its first line is its own process id.
            let state = fs::read(attempt.join("process")).unwrap_or_default();
            let said = String::from_utf8_lossy(state.get(4_096..).unwrap_or_default()).into_owned();
            let pid = said.lines().next().and_then(|line| line.strip_prefix("pid=")?.parse::<i32>().ok());
            if let Some(pid) = pid.filter(|pid| is_shim(*pid)) {
                // Its word for: kill all, now.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGUSR1);
            }
        }
        for container in self.containers() {
            docker(&["rm", "-f", "-v", &container]);
        }
        for image in self.images() {
            docker(&["rmi", "-f", &image]);
        }
        for volume in self.volumes() {
            docker(&["volume", "rm", "-f", &volume]);
        }
    }
}

fn is_shim(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("unidesk-shim"))
}

/// What the Docker CLI prints, line by line; nothing when it fails.
pub(crate) fn docker(arguments: &[&str]) -> Vec<String> {
    let output = Command::new("docker").args(arguments).output().expect("docker is installed");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// A platform in this process with one node, and repositories for it.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) repositories: Repositories,
    platform: Option<Platform>,
    // Last: it removes what the platform has used.
    pub(crate) home: Home,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// With this `provider.toml`.
    pub(crate) async fn start_with(provider_toml: &str) -> Self {
        Self::start_as(provider_toml, node_registry::Config::default()).await
    }

    pub(crate) async fn start_as(provider_toml: &str, registry: node_registry::Config) -> Self {
        let home = Home::create();
        let node = home.path().join("nodes/local");
        fs::create_dir_all(&node).expect("making the node's directory");
        fs::write(node.join("provider.toml"), provider_toml).expect("writing provider.toml");
        let options = Options {
            data_dir: home.path().to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            database_url: None,
            nodes: 1,
            scheduler: Default::default(),
            backup: None,
            objects: artifact_service::Config::default(),
            registry,
            shim: Some(programs::shim()),
        };
        let repositories = Repositories::start().await;
        let platform = standalone::start(&options, &mut |_: &str| {}).await.expect("the platform starts");
        let client = Client::new(&platform.url, &platform.admin_token).expect("a client");
        Self { client, repositories, platform: Some(platform), home }
    }

    pub(crate) fn platform(&self) -> &Platform {
        self.platform.as_ref().expect("it runs until `finish`")
    }

    /// Ends the platform, after a look that nothing was left behind.
    pub(crate) async fn finish(self) {
        self.assert_nothing_is_left().await;
        self.stop().await;
    }

    /// Ends the platform. Whatever a test did to it, nothing is true at its end that never should be.
    pub(crate) async fn stop(mut self) {
        assert_invariants(&self.client).await;
        self.platform.take().expect("it runs").stop().await;
    }

    pub(crate) fn container(&self, line: &str) -> Body {
        Body::container(&self.repositories, line)
    }

    pub(crate) async fn submit(&self, body: &Body) -> Task {
        self.client.submit(&body.0, None).await.unwrap_or_else(|error| panic!("{}: {error}", body.0))
    }

    /// Submits and waits for the end.
    pub(crate) async fn run(&self, body: &Body) -> Task {
        let task = self.submit(body).await;
        self.ended(task.id).await
    }

    pub(crate) async fn ended(&self, id: TaskId) -> Task {
        self.task_until(id, "it ends", |task| task.state.is_terminal()).await
    }

    /// The task as soon as it is so. Panics after a minute with all that is known of the task.
    pub(crate) async fn task_until(&self, id: TaskId, what: &str, holds: impl Fn(&Task) -> bool) -> Task {
        task_until(&self.client, id, what, holds).await
    }

    pub(crate) async fn why(&self, id: TaskId) -> Why {
        self.client.why(id).await.expect("an answer to why")
    }

    /// What a user reads about an ended task.
    pub(crate) async fn story(&self, task: &Task) -> String {
        story::of_ended(task, &self.why(task.id).await)
    }

    /// Runs all at once and writes down how each ended, in this order.
    pub(crate) async fn tell_ends(&self, cases: &[(&str, Body)]) -> Stories {
        let runs = cases.iter().map(|(_, body)| self.run(body));
        let mut stories = Stories::default();
        for ((title, _), task) in cases.iter().zip(futures::future::join_all(runs).await) {
            stories.tell(title, &self.story(&task).await);
        }
        stories
    }

    pub(crate) async fn log(&self, id: TaskId) -> Vec<u8> {
        log(&self.client, id, None).await
    }

    pub(crate) async fn log_of(&self, id: TaskId, streams: &str) -> String {
        String::from_utf8_lossy(&log(&self.client, id, Some(streams)).await).into_owned()
    }

    /// The log as soon as it holds this text.
    pub(crate) async fn log_until(&self, id: TaskId, text: &str) {
        log_until(&self.client, id, text).await;
    }

    pub(crate) async fn node(&self) -> Node {
        let nodes = self.client.nodes().await.expect("nodes");
        nodes.into_iter().find(|node| node.name == "local").expect("the local node")
    }

    pub(crate) async fn node_until(&self, what: &str, holds: impl Fn(&Node) -> bool) -> Node {
        until(what, SOON, async || Some(self.node().await).filter(|node| holds(node))).await
    }

    /// No container, no attempt's directory, no reservation, no task that lives.
    pub(crate) async fn assert_nothing_is_left(&self) {
        let live =
            TaskQuery { state: Some("pending,assigned,preparing,running,finishing".into()), ..TaskQuery::default() };
        let live = self.client.tasks(&live).await.expect("tasks");
        assert_eq!(self.home.instances().len(), 1, "the node's own mark is what all looks go by");
        assert!(live.tasks.is_empty(), "these tasks live: {:?}", live.tasks);
        self.node_until("nothing is reserved", |node| node.tasks == 0 && node.reserved.cpu_millis == 0).await;
        until_true("the attempts' directories are gone", SOON, || self.home.attempts().is_empty()).await;
        assert_eq!(self.home.containers(), Vec::<String>::new(), "containers are left");
    }
}

/// The audit of the live database finds nothing.
pub(crate) async fn assert_invariants(client: &Client) {
    let audit = client.audit().await.expect("an audit");
    let broken: Vec<_> = audit.invariants.iter().filter(|one| one.state != InvariantState::Holds).collect();
    assert!(audit.clean, "these invariants do not hold: {broken:#?}");
}

pub(crate) async fn task_until(client: &Client, id: TaskId, what: &str, holds: impl Fn(&Task) -> bool) -> Task {
    let found = tokio::time::timeout(SOON, async {
        loop {
            match client.task(id).await {
                Ok(task) if holds(&task) => return task,
                Ok(_) => {}
                Err(error) => assert!(error.is_passing(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    })
    .await;
    match found {
        Ok(task) => task,
        Err(_) => {
            let task = client.task(id).await;
            let why = client.why(id).await;
            let said = log(client, id, Some("system,build,stdout,stderr")).await;
            panic!("not within {SOON:?}: {what}\n{task:#?}\n{why:#?}\n{}", String::from_utf8_lossy(&said));
        }
    }
}

pub(crate) async fn log(client: &Client, id: TaskId, streams: Option<&str>) -> Vec<u8> {
    let query = LogQuery { stream: streams.map(str::to_owned), ..LogQuery::default() };
    let bytes = client.log_bytes(id, &query).await.expect("a log");
    bytes
        .try_fold(Vec::new(), async |mut all, piece| {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
        .expect("a whole log")
}

pub(crate) async fn log_until(client: &Client, id: TaskId, text: &str) {
    until(&format!("the log holds {text:?}"), SOON, async || {
        let log = log(client, id, None).await;
        String::from_utf8_lossy(&log).contains(text).then_some(())
    })
    .await;
}

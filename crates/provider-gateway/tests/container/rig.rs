//! An executor on the real Docker, trees in memory, and jobs to run. Removes what it made when dropped.

use bytes::Bytes;
use domain::{
    ids::{AttemptId, DEFAULT_PROJECT, Fence, Held, InstanceId, TaskId},
    outcome::ExitFacts,
    source::{DockerfilePath, Pinned},
    spec::parse_spec,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use provider_gateway::{
    container::{ContainerExecutor, FetchedTree, Settings, TarOptions, TreeSource},
    executor::{Executor, Failure, Job},
    log::{AttemptLog, Captured},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Trees by commit: files with their content.
#[derive(Default)]
pub(crate) struct Trees {
    commits: Mutex<HashMap<String, Files>>,
    /// Whoever has it to write keeps code from being fetched.
    pub(crate) code_gate: tokio::sync::RwLock<()>,
}

type Files = Vec<(String, Vec<u8>)>;

impl Trees {
    /// Returns the new commit's id.
    pub(crate) fn commit(&self, files: &[(&str, &[u8])]) -> String {
        let commit = format!("{}{}", Uuid::new_v4().simple(), &Uuid::new_v4().simple().to_string()[..8]);
        let files = files.iter().map(|(path, content)| ((*path).to_owned(), content.to_vec())).collect();
        self.commits.lock().unwrap().insert(commit.clone(), files);
        commit
    }
}

impl TreeSource for Trees {
    fn fetch<'a>(
        &'a self,
        role: &'static str,
        pinned: &'a Pinned,
        _: &'a AttemptLog,
    ) -> BoxFuture<'a, Result<FetchedTree, Failure>> {
        let tree = FetchedTree {
            commit: pinned.commit.as_str().to_owned(),
            tree: format!("tree-of-{}", pinned.commit.short()),
            bytes_fetched: 1_126,
            ..FetchedTree::default()
        };
        async move {
            if role == "code" {
                drop(self.code_gate.read().await);
            }
            Ok(tree)
        }
        .boxed()
    }
    fn dockerfile<'a>(
        &'a self,
        pinned: &'a Pinned,
        path: &'a DockerfilePath,
    ) -> BoxFuture<'a, Result<Vec<u8>, Failure>> {
        let trees = self.commits.lock().unwrap();
        let found = trees[pinned.commit.as_str()].iter().find(|(name, _)| name == path.as_str());
        let answer = found.map(|(_, content)| content.clone()).ok_or_else(|| Failure::node("no such Dockerfile"));
        async move { answer }.boxed()
    }
    fn tar(&self, pinned: &Pinned, options: TarOptions) -> BoxStream<'static, Result<Bytes, std::io::Error>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in &self.commits.lock().unwrap()[pinned.commit.as_str()] {
            let content = options.replace.get(path).map_or(content.as_slice(), |other| other.as_ref());
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            header.set_uid(options.uid.into());
            header.set_gid(options.gid.into());
            tar.append_data(&mut header, path, content).unwrap();
        }
        let bytes = Bytes::from(tar.into_inner().unwrap());
        let pieces: Vec<_> =
            (0..bytes.len()).step_by(8_192).map(|at| Ok(bytes.slice(at..bytes.len().min(at + 8_192)))).collect();
        futures::stream::iter(pieces).boxed()
    }
}

pub(crate) struct Rig {
    pub(crate) trees: Arc<Trees>,
    pub(crate) executor: Arc<ContainerExecutor>,
    pub(crate) settings: Settings,
    data: tempfile::TempDir,
}

pub(crate) struct Attempt {
    pub(crate) job: Job,
    pub(crate) log: Captured,
    pub(crate) _dir: tempfile::TempDir,
}

impl Attempt {
    pub(crate) fn text(&self, stream: protocol::Stream) -> String {
        String::from_utf8_lossy(&self.log.bytes(stream)).into_owned()
    }
    pub(crate) fn container(&self) -> String {
        format!("unidesk-{}", self.job.held.attempt)
    }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }
    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(data.path(), InstanceId::from_uuid(Uuid::new_v4()));
        // The cache is shared by all tests that run now.
        settings.disk.prune_build_cache = false;
        settings.disk.marks.high_percent = 101;
        settings.disk.marks.full_percent = 101;
        change(&mut settings);
        let trees = Arc::new(Trees::default());
        let executor = Arc::new(ContainerExecutor::new(settings.clone(), trees.clone()).unwrap());
        Self { trees, executor, settings, data }
    }
    /// As after a restart of the agent.
    pub(crate) fn restart(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.executor = Arc::new(ContainerExecutor::new(self.settings.clone(), self.trees.clone()).unwrap());
        assert!(self.data.path().exists());
    }

    pub(crate) fn environment(&self, dockerfile: &str) -> String {
        self.trees.commit(&[("env/Dockerfile", dockerfile.as_bytes()), ("env/extra.txt", b"from the context\n")])
    }

    /// A job in the environment of this commit; `more` goes over the task's body.
    pub(crate) fn job(&self, environment: &str, code: &[(&str, &[u8])], more: Value) -> Attempt {
        let mut body = json!({
            "executor": "container",
            "source": {
                "code_repo_url": "https://git.example/lab/code.git",
                "code_commit_id": self.trees.commit(code),
                "env_repo_url": "https://git.example/lab/env.git",
                "env_commit_id": environment,
                "dockerfile_path": "env/Dockerfile",
            },
            "requirements": {"memory": "64MiB", "cpu_cores": 1},
        });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let spec = parse_spec(&body).unwrap();
        let (log, captured) = AttemptLog::capture();
        let dir = tempfile::tempdir().unwrap();
        let job = Job {
            held: Held { attempt: AttemptId::from_uuid(Uuid::now_v7()), fence: Fence::from_i64(7) },
            task: TaskId::from_uuid(Uuid::now_v7()),
            project: DEFAULT_PROJECT,
            number: 1,
            gpu_ids: Vec::new(),
            spec: Arc::new(spec),
            instance: self.settings.instance,
            node_name: "rig".into(),
            lease: None,
            is_of_earlier_boot: false,
            checkpoints: Default::default(),
            dir: dir.path().to_owned(),
            log,
        };
        Attempt { job, log: captured, _dir: dir }
    }
    pub(crate) fn shell(&self, environment: &str, line: &str) -> Attempt {
        self.job(environment, &[], json!({ "command": line }))
    }
    pub(crate) async fn run(&self, attempt: &Attempt) -> Result<ExitFacts, Failure> {
        self.executor.prepare(&attempt.job).await?;
        self.executor.start(&attempt.job).await?;
        let exit = self.executor.collect(&attempt.job).await?;
        Ok(exit)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let label = format!("label=unidesk.instance={}", self.settings.instance);
        for (list, remove) in [(["ps", "-aq"], ["rm", "-fv"]), (["images", "-aq"], ["rmi", "-f"])] {
            let found = docker(&[list[0], list[1], "--filter", &label]);
            for id in found.split_whitespace() {
                docker(&[remove[0], remove[1], id]);
            }
        }
        for id in docker(&["ps", "-aq", "--filter", &format!("label=unidesk.input={}", self.settings.instance)])
            .split_whitespace()
        {
            docker(&["rm", "-fv", id]);
        }
        let label = format!("label=unidesk.input={}", self.settings.instance);
        for volume in docker(&["volume", "ls", "-q", "--filter", &label]).split_whitespace() {
            docker(&["volume", "rm", "-f", volume]);
        }
        let label = format!("label=unidesk.shim={}", self.settings.instance);
        for volume in docker(&["volume", "ls", "-q", "--filter", &label]).split_whitespace() {
            docker(&["volume", "rm", "-f", volume]);
        }
    }
}

/// What the `docker` command prints.
pub(crate) fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub(crate) fn inspect(name: &str) -> Value {
    serde_json::from_str::<Value>(&docker(&["inspect", name])).unwrap()[0].clone()
}

/// Waits until something is so; fails after 20 s.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(20), "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether any process of this machine has these words in its command line.
pub(crate) fn is_running(words: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.trim_end() == words
        })
    })
}

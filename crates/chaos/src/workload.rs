//! A client that keeps the platform busy and writes down everything it asked and was told.

use crate::ledger::Ledger;
use client::{Client, ClientError};
use domain::ids::TaskId;
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use test_kit::git_host::{GitHost, HostedRepository};
use tokio::{sync::watch, task::JoinSet, time::Instant};

/// A submission that nobody answers is given up after this.
const ANSWERED_WITHIN: Duration = Duration::from_secs(90);

/// Repositories for container tasks.
pub struct Repositories {
    pub host: GitHost,
    environment: (HostedRepository, String),
    code: (HostedRepository, String),
}

impl Repositories {
    pub async fn start() -> Self {
        let image = test_kit::docker::busybox().await;
        let host = GitHost::start();
        let environment = host.repository("environment");
        let dockerfile = format!("FROM {image}\nRUN echo made > /made\n");
        let commit = environment.commit(&[("Dockerfile", dockerfile.as_str().into())], "An environment");
        let code = host.repository("code");
        let code_commit = code.commit(&[("greeting.txt", "hello\n".into())], "Some code");
        Self { host, environment: (environment, commit), code: (code, code_commit) }
    }

    fn source(&self) -> Value {
        json!({
            "code_repo_url": self.code.0.url(), "code_commit_id": self.code.1,
            "env_repo_url": self.environment.0.url(), "env_commit_id": self.environment.1, "dockerfile_path": "Dockerfile",
        })
    }
}

/// What a task should do.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// One of its kind in a run: it is the idempotency key too.
    pub name: String,
    pub is_container: bool,
    pub steps: u32,
    pub pause: Duration,
    pub exit_code: i32,
    pub exclusive: bool,
    /// Further fields of the body.
    pub also: Value,
}

impl Wanted {
    pub fn process(name: impl Into<String>, steps: u32, pause: Duration) -> Self {
        Self { name: name.into(), is_container: false, steps, pause, exit_code: 0, exclusive: false, also: json!({}) }
    }

    pub fn container(name: impl Into<String>, steps: u32, pause: Duration) -> Self {
        Self { is_container: true, ..Self::process(name, steps, pause) }
    }

    fn body(&self, ledger: &Ledger, repositories: &Repositories) -> Value {
        let mut body = json!({
            "name": self.name,
            "executor": if self.is_container { "container" } else { "process" },
            "command": ledger.script(self.is_container, self.steps, self.pause, self.exit_code),
            "requirements": { "cpu_cores": 0.1, "memory": "64MiB", "disk": "16MiB" },
            "stop": { "grace": "1s" },
        });
        if self.is_container {
            body["source"] = repositories.source();
        }
        if let (Some(body), Some(also)) = (body.as_object_mut(), self.also.as_object()) {
            body.extend(also.clone());
        }
        body
    }
}

/// One thing asked, with the times around it.
#[derive(Clone, Debug, Serialize)]
pub struct Operation {
    pub what: String,
    pub invoked_ms: u64,
    pub returned_ms: u64,
    pub answer: String,
}

/// A task that was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub wanted: Wanted,
    /// None: no gateway has answered.
    pub id: Option<TaskId>,
}

/// Asks and remembers. Cheap to clone.
#[derive(Clone)]
pub struct Submitter {
    clients: Vec<Client>,
    ledger: Arc<Ledger>,
    repositories: Arc<Repositories>,
    began: Instant,
    asked: Arc<Mutex<Vec<Asked>>>,
    history: Arc<Mutex<Vec<Operation>>>,
}

impl Submitter {
    pub fn new(clients: Vec<Client>, ledger: Arc<Ledger>, repositories: Arc<Repositories>) -> Self {
        Self { clients, ledger, repositories, began: Instant::now(), asked: Arc::default(), history: Arc::default() }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Of this one another end is wanted than its own: the scenario judges it.
    pub fn forget(&self, id: TaskId) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).retain(|asked| asked.id != Some(id));
    }

    /// All of it was judged.
    pub fn forget_all(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub fn history(&self) -> Vec<Operation> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Submits until some gateway answers, always with the same key, so that it is one task however often it arrives.
    ///
    /// Errors: refused for good, or not answered in time. What was not answered stays in [`Submitter::asked`] without an id.
    pub async fn submit(&self, wanted: Wanted) -> Result<TaskId, ClientError> {
        let body = wanted.body(&self.ledger, &self.repositories);
        let place = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.push(Asked { wanted: wanted.clone(), id: None });
            asked.len()
        };
        let key = format!("chaos-{}", wanted.name);
        let deadline = Instant::now() + ANSWERED_WITHIN;
        for client in self.clients.iter().cycle().skip(place % self.clients.len()) {
            let invoked = self.began.elapsed();
            let answer = tokio::time::timeout(Duration::from_secs(5), client.submit(&body, Some(&key))).await;
            let told = match &answer {
                Err(_) => "no answer within 5 s".to_owned(),
                Ok(Ok(task)) => task.id.to_string(),
                Ok(Err(error)) => error.to_string(),
            };
            self.remember(format!("submit {}", wanted.name), invoked, told);
            match answer {
                Ok(Ok(task)) => {
                    let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(asked) = asked.iter_mut().find(|asked| asked.wanted.name == wanted.name) {
                        asked.id = Some(task.id);
                    }
                    return Ok(task.id);
                }
                Ok(Err(error)) if !error.is_passing() || Instant::now() > deadline => return Err(error),
                Err(_) | Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        unreachable!("a cycle of at least one gateway has no end")
    }

    fn remember(&self, what: String, invoked: Duration, answer: String) {
        let operation = Operation {
            what,
            invoked_ms: invoked.as_millis() as u64,
            returned_ms: self.began.elapsed().as_millis() as u64,
            answer,
        };
        self.history.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }
}

/// Short tasks, one after the other, until it is stopped.
pub struct Trickle {
    stopping: watch::Sender<bool>,
    running: JoinSet<()>,
}

impl Trickle {
    pub fn start(submitter: &Submitter, every: Duration) -> Self {
        let (stopping, mut stopped) = watch::channel(false);
        let submitter = submitter.clone();
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut under_way = JoinSet::new();
            for number in 1.. {
                let pause = Duration::from_millis(100);
                let wanted = match number % 6 {
                    0 => Wanted::container(format!("short-{number}"), 3, pause),
                    3 => Wanted { exit_code: 7, ..Wanted::process(format!("short-{number}"), 2, pause) },
                    _ => Wanted::process(format!("short-{number}"), 3, pause),
                };
                let submitter = submitter.clone();
                // Not one by one: while one waits for an answer the others go on being asked for.
                under_way.spawn(async move { drop(submitter.submit(wanted).await) });
                tokio::select! {
                    () = tokio::time::sleep(every) => {}
                    _ = stopped.wait_for(|stop| *stop) => break,
                }
            }
            while under_way.join_next().await.is_some() {}
        });
        Self { stopping, running }
    }

    /// Asks for no more and waits until all that was asked is answered.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        while self.running.join_next().await.is_some() {}
    }
}

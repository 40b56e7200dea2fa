//! `unidesk up` with something to do, for whoever watches it.

use crate::{
    programs::{self, Program},
    task::Body,
    world::{Home, SOON, task_until},
};
use api_types::task::Task;
use client::Client;
use std::{fs, process::Stdio};
use tokio::process::Command;

pub(super) struct Watched {
    /// Ends before its home is cleared.
    up: Program,
    home: Home,
    client: Client,
    token: String,
    http: reqwest::Client,
    rounds: usize,
}

impl Watched {
    pub(super) async fn start() -> Self {
        let home = Home::create();
        let mut command = programs::command(&["up", "--listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(home.path().join("data"));
        let up = Program::start(command).await;
        let token = fs::read_to_string(home.path().join("data/admin.token")).expect("the first key").trim().to_owned();
        let client = Client::new(up.url(), &token).expect("a client");
        Self { up, home, client, token, http: reqwest::Client::new(), rounds: 0 }
    }

    /// Host and port.
    pub(super) fn address(&self) -> String {
        self.up.url().trim_start_matches("http://").to_owned()
    }

    pub(super) async fn metrics(&self) -> String {
        let answer = self.http.get(format!("{}/metrics", self.up.url())).send().await.expect("an answer");
        answer.text().await.expect("text")
    }

    async fn submit(&self, body: &Body) -> Task {
        self.client.submit(&body.0, None).await.expect("it is taken")
    }

    /// One task of every kind: one that succeeds, one that fails, one that is cancelled, one that waits, one that goes on; and an artifact.
    pub(super) async fn work_once(&mut self) {
        let (good, bad) = (self.submit(&Body::process("echo hi")).await, self.submit(&Body::process("exit 3")).await);
        let cancelled = self.submit(&Body::process("sleep 600")).await;
        self.client.cancel(cancelled.id).await.expect("it is cancelled");
        for task in [&good, &bad, &cancelled] {
            task_until(&self.client, task.id, "it ends", |task| task.state.is_terminal()).await;
        }
        if self.rounds == 0 {
            // There is no GPU with so much memory.
            self.submit(&Body::process("true").with("requirements.gpus", 1).with("priority", "low")).await;
            self.submit(&Body::process("sleep 600")).await;
        }
        self.rounds += 1;
        let file = self.home.path().join("file");
        fs::write(&file, format!("content {}", self.rounds)).expect("writing");
        let mut put = Command::from(programs::command(&["artifact", "put", "--name", "model"]));
        put.arg(&file)
            .env("HOME", self.home.path())
            .env("UNIDESK_URL", self.up.url())
            .env("UNIDESK_TOKEN", &self.token);
        put.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = tokio::time::timeout(SOON, put.output()).await.expect("an end in time").expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub(super) async fn stop(mut self) {
        assert!(self.up.stop().await.success(), "{}", self.up.said());
    }
}

//! What a task had done by its last checkpoint is not done again, whatever becomes of the node.

use crate::{
    programs::{Program, provider},
    task::Body,
    until::until,
    world::{SOON, World},
};
use api_types::{node::Node, task::Task};
use domain::{ids::TaskId, task::TaskState};
use serde_json::json;

impl World {
    async fn node_named(&self, name: &str) -> Option<Node> {
        self.client.nodes().await.ok()?.into_iter().find(|node| node.name == name)
    }

    /// A second machine, once it is there.
    async fn add_node(&self, name: &str) -> (String, Program) {
        let token = self.client.create_node_token(name).await.expect("a token").token;
        let dir = self.home.path().join("nodes").join(name);
        std::fs::create_dir_all(&dir).expect("made");
        // These tests may run in a container, where an agent leaves processes alone unless its owner allows them.
        std::fs::write(dir.join("policy.toml"), "executors = ['process']\n").expect("written");
        let agent = self.start_agent(name, &token);
        let is_there = async || self.node_named(name).await.filter(|node| node.connected_since.is_some());
        until("the node is there", SOON, is_there).await;
        (token, agent)
    }

    fn start_agent(&self, name: &str, token: &str) -> Program {
        let dir = self.home.path().join("nodes").join(name);
        Program::spawn(provider(&self.platform().url, token, &dir))
    }

    /// With a checkpoint that is stored.
    async fn kept(&self, id: TaskId) -> Task {
        self.task_until(id, "a checkpoint is stored", |task| task.checkpoint.is_some()).await
    }

    /// The last attempt's own word on what it began with.
    async fn went_on_from(&self, id: TaskId) -> serde_json::Value {
        let task = self.client.task(id).await.expect("a task");
        let last = task.attempts.as_deref().and_then(<[_]>::last).expect("an attempt").clone();
        last.provenance.expect("it was got ready")["checkpoint"].clone()
    }
}

/// Counts to seven and says how far it is, then hangs; who finds a count goes on from there to ten and ends.
const COUNTS: &str = "n=$(cat ckpt/count 2>/dev/null || echo 0); first=$n; echo begins at $n in $UNIDESK_CHECKPOINT_DIR
    while [ $n -lt 10 ]; do n=$((n+1)); echo $n >ckpt/new && mv ckpt/new ckpt/count; [ $first = 0 ] && [ $n = 7 ] && sleep 600; done
    echo counted to $n";

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_on_on_another_node_where_its_last_checkpoint_was() {
    let registry = node_registry::Config { offline_after_s: 20, ..Default::default() };
    let world = World::start_as("", registry).await;
    let local = world.node().await;
    world.client.drain_node(local.id, "the other one first", None).await.expect("drained");
    let (token, mut laptop) = world.add_node("laptop").await;
    let body = Body::process(COUNTS).with("checkpoints", json!({"path": "ckpt", "every": "10s"}));
    let id = world.submit(&body).await.id;
    let task = world.kept(id).await;
    assert_eq!((task.node.as_deref(), task.attempt), (Some("laptop"), 1), "{task:#?}");
    let checkpoint = task.checkpoint.expect("it is stored");
    assert_eq!(checkpoint.name, format!("checkpoint-{id}"));
    // While the task is live nobody takes it away.
    assert!(world.client.delete_artifact(checkpoint.id).await.is_err());

    // The lid is closed; what ran there may well be running on.
    laptop.kill().await;
    world.client.resume_node(local.id).await.expect("resumed");
    let task = world.ended(id).await;
    assert_eq!((task.state, task.node.as_deref(), task.attempt), (TaskState::Succeeded, Some("local"), 2), "{task:#?}");
    let said = world.log_of(id, "stdout").await;
    assert!(said.starts_with("begins at 7 in /") && said.ends_with("counted to 10\n"), "{said}");
    assert_eq!(world.went_on_from(id).await["artifact"], format!("checkpoint-{id}@{}", checkpoint.version));
    let told = world.log_of(id, "system").await;
    assert!(told.contains(&format!("goes on from checkpoint {}", checkpoint.version)), "{told}");
    // The laptop comes back, hears that another has done it, and stops what still runs there.
    let mut laptop_again = world.start_agent("laptop", &token);
    let is_idle = async || {
        let node = world.node_named("laptop").await?;
        (node.connected_since.is_some() && world.home.attempts().is_empty()).then_some(())
    };
    until("nothing of it is left on the laptop", SOON, is_idle).await;
    laptop_again.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_moved_off_its_node_saves_once_more_and_loses_nothing() {
    let world = World::start().await;
    let local = world.node().await;
    // Long before its first checkpoint is due.
    let line = "n=$(cat ckpt/count 2>/dev/null || echo 0); echo begins at $n; [ $n = 0 ] || exit 0
        trap 'echo 7 >ckpt/count; exit 1' TERM; echo up; sleep 600 & wait";
    let keep = |body: Body| body.with("checkpoints", json!({"path": "ckpt", "every": "1h"}));
    let tasks =
        [world.submit(&keep(Body::process(line))).await.id, world.submit(&keep(world.container(line))).await.id];
    for id in tasks {
        world.log_until(id, "up\n").await;
    }
    world.client.drain_node(local.id, "", Some("1s")).await.expect("drained");
    for id in tasks {
        let is_queued = |task: &Task| task.state == TaskState::Pending && task.checkpoint.is_some();
        world.task_until(id, "it waits for another node, with a checkpoint", is_queued).await;
    }
    world.client.resume_node(local.id).await.expect("resumed");
    for id in tasks {
        let task = world.ended(id).await;
        assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 2), "{task:#?}");
        assert_eq!(world.log_of(id, "stdout").await, "begins at 7\n");
    }
    world.finish().await;
}

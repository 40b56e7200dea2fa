//! What nodes may do for the attempts that they hold, over HTTP: inputs, outputs, and the fence between attempts.

use crate::world::{MEMBER, PART, World, bytes, cut, eventually, good, id_of, refusal, sha256, wanted, word};
use domain::{
    attempt::Report,
    ids::{DEFAULT_PROJECT, Held, InstanceId, NodeId, NodeTokenId, PrincipalId, TaskId},
    node::{NodeFacts, NodeMetrics},
    outcome::{Ending, ExitFacts, FailureKind, LogTotals},
    placement::Placement,
    principal::{Origin, Principal, PrincipalKind, Role, Scope},
    resources::{Capacity, Reservation},
    spec::parse_spec,
    task::TaskState,
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use store::{LeaderRole, NewNodeToken, NewTask, NodeReport, OpenSession, Opened, SessionKey, Submitted};
use uuid::Uuid;

pub(crate) struct Node {
    pub(crate) id: NodeId,
    session: SessionKey,
}

fn origin() -> Origin {
    let id = PrincipalId::from_uuid(Uuid::nil());
    let principal =
        Principal { kind: PrincipalKind::Platform, id, name: "test".into(), role: Role::Admin, project: None };
    Origin { principal, address: "test".into(), request_id: "test".into() }
}

impl World {
    pub(crate) async fn node(&self, name: &str) -> Node {
        let id = NodeId::from_uuid(Uuid::now_v7());
        let new = NewNodeToken {
            id: NodeTokenId::from_uuid(Uuid::now_v7()),
            node: id,
            project: DEFAULT_PROJECT,
            created_by: origin().principal.id,
            name: name.into(),
            secret_hash: vec![0; 32],
        };
        assert!(self.store.create_node_token(&new, &origin()).await.expect("made"));
        let capacity = Capacity { cpu_millis: 64_000, memory_bytes: 1 << 40, disk_bytes: 1 << 40, gpus: Vec::new() };
        let executors = [("process".to_owned(), "1".to_owned())].into();
        let hello = OpenSession {
            node: id,
            instance: InstanceId::from_uuid(Uuid::now_v7()),
            facts: NodeFacts { capacity, executors, platform: "linux".into(), ..NodeFacts::default() },
            metrics: NodeMetrics::default(),
            attempts: Vec::new(),
            complete_executors: ["process".to_owned()].into(),
            newest_epoch: i64::MAX,
        };
        match self.store.open_session(&hello).await.expect("opened") {
            Opened::Session { key, .. } => Node { id, session: key },
            other => panic!("{other:?}"),
        }
    }

    /// A task that runs there.
    pub(crate) async fn runs(&self, body: Value, node: &Node) -> (TaskId, Held) {
        let mut spec = parse_spec(&body).expect("a good task");
        let names: Vec<_> = spec.inputs.iter().map(|input| (DEFAULT_PROJECT, input.artifact.clone())).collect();
        let pinned = self.store.pin_inputs(&names).await.expect("looked up");
        spec.inputs.iter_mut().zip(pinned).for_each(|(input, pinned)| input.pinned = pinned);
        let created_by = PrincipalId::from_uuid(Uuid::from_u128(7));
        let new = NewTask { project: DEFAULT_PROJECT, created_by, spec, idempotency: None };
        let [Submitted::Accepted { id: task }] = self.store.submit_tasks(&[new]).await.expect("accepted")[..] else {
            panic!("not accepted")
        };
        let held = self.place(task, node).await;
        self.say(node, held, Report::Started).await;
        (task, held)
    }

    pub(crate) async fn place(&self, task: TaskId, node: &Node) -> Held {
        let leader = self.store.lead(LeaderRole::Scheduler, Uuid::from_u128(9), None).await.expect("asked");
        let reservation = Reservation { cpu_millis: 1_000, memory_bytes: 512 << 20, ..Reservation::default() };
        let plan = [Placement { task, node: node.id, reservation }];
        let placed = self.store.commit_placements(&leader.expect("leads"), &plan).await.expect("committed").placed;
        assert_eq!(placed, 1);
        let detail = self.store.get_task(Scope::All, task).await.expect("read").expect("there");
        detail.attempts.last().expect("an attempt").row.held()
    }

    pub(crate) async fn say(&self, node: &Node, held: Held, report: Report) {
        self.store.record_reports(node.session, &[NodeReport { held, report }]).await.expect("recorded");
    }

    pub(crate) async fn end(&self, node: &Node, held: Held, failure: Option<FailureKind>) {
        let log = LogTotals::default();
        let ending = Ending { failure, message: String::new(), exit: None, planned_stop: false, log };
        self.say(node, held, Report::Ended { ending }).await;
    }

    pub(crate) async fn ask_as(&self, node: &Node, held: Held, path: &str, body: Value) -> Response {
        let path = format!("/node/attempts/{}/{}/{path}", held.attempt, held.fence.get());
        self.ask_of_node(node.id, &path, body).await
    }

    pub(crate) async fn post_as(&self, node: &Node, held: Held, path: &str, body: Value) -> Value {
        good(self.ask_as(node, held, path, body).await).await
    }

    /// Puts the parts of an output where they go, but for those that the store has: what is told as stored.
    async fn store_parts(&self, node: &Node, held: Held, index: u32, parts: &[(u32, &[u8])]) -> Vec<Value> {
        let asked: Vec<Value> = parts.iter().map(|(number, bytes)| wanted(*number, bytes)).collect();
        let path = format!("outputs/{index}/parts");
        let answer = self.post_as(node, held, &path, json!({ "wanted": asked })).await;
        let mut stored = Vec::new();
        for (at, (number, bytes)) in parts.iter().enumerate() {
            let put = &answer["parts"][at]["put"];
            if !put.is_null() {
                let sent = self.send(put, bytes.to_vec()).await;
                assert_eq!(sent.status(), StatusCode::OK);
                stored.push(json!({ "number": number, "etag": sent.headers()["etag"].to_str().expect("text") }));
            }
        }
        stored
    }

    async fn finish(&self, node: &Node, held: Held, index: u32, content: &[u8], stored: &[Value]) -> Response {
        let whole = json!({ "size": content.len(), "sha256": sha256(content), "stored": stored });
        self.ask_as(node, held, &format!("outputs/{index}/complete"), whole).await
    }
}

fn leaves() -> Value {
    json!({"command": ["train"], "outputs": [
        {"path": "model.pt", "name": "model"}, {"path": "logs/**", "name": "logs", "on": "always"}]})
}

pub(crate) async fn a_node_reads_what_was_pinned_and_nothing_else(world: &World) {
    let content = bytes(1, PART + 5);
    world.put("data", &content).await;
    let node = world.node("n").await;
    let body = json!({"command": ["ls"], "inputs": [{"artifact": "data", "path": "data"}]});
    let (_, held) = world.runs(body, &node).await;
    // Whatever is the newest now.
    world.put("data", b"newer").await;
    let download = world.post_as(&node, held, "inputs/0", json!({})).await;
    assert_eq!(download["artifact"]["version"], json!(1));
    let got = world.send(&download["get"], Vec::new()).await;
    assert_eq!(got.bytes().await.expect("a body"), content);
    for path in ["inputs/1", "inputs/x", "outputs/0", "outputs/0/parts"] {
        let body = if path == "outputs/0" { json!({"kind": "file", "file_name": "x"}) } else { json!({}) };
        assert_eq!(word(world.ask_as(&node, held, path, body)).await, "no-such-artifact", "{path}");
    }
    // The bytes were found to be wrong: then the task can't have them, and is told why.
    let id = id_of(&world.get("/artifacts/data@1").await);
    let rot = |state: &str| format!("UPDATE artifacts SET state = '{state}' WHERE id = '{id}'");
    world.database.execute(&rot("corrupt")).await;
    assert_eq!(word(world.ask_as(&node, held, "inputs/0", json!({}))).await, "artifact-not-ready");
    world.database.execute(&rot("ready")).await;
    let refused = world.ask(MEMBER, Method::DELETE, "/artifacts/data@1", None).await;
    assert_eq!(refusal(refused).await.0, "artifact-in-use");
    world.end(&node, held, None).await;
    assert_eq!(word(world.ask_as(&node, held, "inputs/0", json!({}))).await, "already-ended");
    good(world.ask(MEMBER, Method::DELETE, "/artifacts/data@1", None).await).await;
}

pub(crate) async fn what_an_attempt_leaves_becomes_an_artifact_of_its_creator(world: &World) {
    let node = world.node("n").await;
    let (task, held) = world.runs(leaves(), &node).await;
    let exit = ExitFacts { code: Some(0), outputs_due: 2, ..ExitFacts::default() };
    world.say(&node, held, Report::Exited { exit }).await;
    let content = bytes(2, 2 * PART + 100);
    let announced = json!({"kind": "file", "size": content.len(), "file_name": "out/model\n.pt"});
    let upload = world.post_as(&node, held, "outputs/0", announced.clone()).await;
    let artifact = &upload["artifact"];
    assert_eq!((&artifact["name"], &artifact["file_name"]), (&json!("model"), &json!("out_model_.pt")));
    assert_eq!((&artifact["attempt"], &artifact["state"]), (&json!(held.attempt), &json!("uploading")));
    assert_eq!(upload["part_size"], json!(PART));
    // A person has no business in it, also one that may do whatever people do.
    let id = id_of(artifact);
    for (path, body) in [("parts", json!({})), ("complete", json!({"size": 0, "sha256": sha256(b"")}))] {
        let refused = world.ask(MEMBER, Method::POST, &format!("/artifacts/{id}/{path}"), Some(body)).await;
        assert_eq!(refusal(refused).await.0, "fenced", "{path}");
    }
    let parts = cut(&content);
    let mut stored = world.store_parts(&node, held, 0, &parts[..2]).await;
    assert_eq!(refusal(world.finish(&node, held, 0, &content, &stored).await).await.0, "upload-incomplete");
    // The agent was started anew: the same upload goes on with what is missing.
    assert_eq!(id_of(&world.post_as(&node, held, "outputs/0", announced.clone()).await["artifact"]), id);
    stored = world.store_parts(&node, held, 0, &parts).await;
    assert_eq!(stored.len(), 1, "two parts are there");
    let ready = good(world.finish(&node, held, 0, &content, &stored).await).await;
    assert_eq!((&ready["state"], &ready["version"], &ready["labels"]), (&json!("ready"), &json!(1), &json!({})));
    assert_eq!(world.bytes_of("model").await, content);
    // Once more, as whoever has heard no answer asks.
    assert_eq!(world.post_as(&node, held, "outputs/0", announced).await["artifact"]["state"], json!("ready"));
    assert_eq!(id_of(&good(world.finish(&node, held, 0, &content, &[]).await).await), id);
    // A directory of unknown size, without a byte.
    world.post_as(&node, held, "outputs/1", json!({"kind": "directory", "file_name": "logs"})).await;
    let stored = world.store_parts(&node, held, 1, &[(1, b"")]).await;
    let logs = good(world.finish(&node, held, 1, b"", &stored).await).await;
    assert_eq!((&logs["kind"], &logs["name"]), (&json!("directory"), &json!("logs")));
    world.end(&node, held, None).await;
    let detail = world.store.get_task(Scope::All, task).await.expect("read").expect("there");
    assert_eq!((detail.view.state, detail.attempts[0].row.outputs_stored), (TaskState::Succeeded, 2));
}

pub(crate) async fn a_fenced_attempt_never_becomes_an_artifact(world: &World) {
    let (node, other) = (world.node("n").await, world.node("other").await);
    let (task, held) = world.runs(leaves(), &node).await;
    let announced = json!({"kind": "file", "file_name": "model.pt"});
    world.post_as(&node, held, "outputs/0", announced.clone()).await;
    let content = bytes(3, 1_000);
    let stored = world.store_parts(&node, held, 0, &[(1, &content)]).await;
    // Another node asks in its name; this one in the name of another lease.
    let later = Held { fence: held.fence.next(held.fence.epoch()), ..held };
    for (who, held) in [(&other, held), (&node, later)] {
        assert_eq!(word(world.ask_as(who, held, "outputs/0", announced.clone())).await, "fenced");
        assert_eq!(word(world.ask_as(who, held, "outputs/0/parts", json!({}))).await, "fenced");
        assert_eq!(refusal(world.finish(who, held, 0, &content, &stored).await).await.0, "fenced");
    }
    // It fails there, and is tried again elsewhere: two attempts of one task, and one artifact.
    world.end(&node, held, Some(FailureKind::NodeError)).await;
    assert_eq!(refusal(world.finish(&node, held, 0, &content, &stored).await).await.0, "already-ended");
    world.database.execute("UPDATE task_state SET not_before = NULL").await;
    let second = world.place(task, &other).await;
    world.post_as(&other, second, "outputs/0", announced.clone()).await;
    let stored = world.store_parts(&other, second, 0, &[(1, &content)]).await;
    assert_eq!(stored.len(), 1, "nothing is taken over from a fenced attempt");
    let ready = good(world.finish(&other, second, 0, &content, &stored).await).await;
    assert_eq!((&ready["version"], &ready["attempt"]), (&json!(1), &json!(second.attempt)));
    assert_eq!(refusal(world.finish(&node, held, 0, &content, &[]).await).await.0, "already-ended");
    let listed = world.get("/artifacts?name=model&state=ready").await;
    assert_eq!(listed["artifacts"].as_array().map(Vec::len), Some(1), "{listed}");
    // What it had uploaded is deleted soon, though nobody else would call it idle.
    assert_eq!(world.keys().await.len(), 2);
    world.collect(crate::world::times());
    eventually("the upload of the first attempt is deleted", async || world.keys().await.len() == 1).await;
    assert_eq!(world.bytes_of("model").await, content);
    world.end(&other, second, None).await;
}

pub(crate) async fn a_store_that_is_away_is_waited_for(world: &World) {
    let content = bytes(4, 1_000);
    world.put("data", &content).await;
    let node = world.node("n").await;
    let mut body = leaves();
    body["inputs"] = json!([{"artifact": "data", "path": "data"}]);
    let (_, held) = world.runs(body, &node).await;
    world.post_as(&node, held, "outputs/0", json!({"kind": "file", "file_name": "model.pt"})).await;
    let stored = world.store_parts(&node, held, 0, &[(1, &content)]).await;
    world.gate.shut();
    let refused = world.finish(&node, held, 0, &content, &stored).await;
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(refusal(refused).await.0, "object-store-away");
    world.gate.open();
    assert_eq!(good(world.finish(&node, held, 0, &content, &[]).await).await["state"], json!("ready"));
    let bare = world.without_objects().await;
    for path in ["inputs/0", "outputs/0/parts", "outputs/0/complete"] {
        let body = json!({"size": 0, "sha256": sha256(b"")});
        let body = if path.ends_with("complete") { body } else { json!({}) };
        assert_eq!(word(bare.ask_as(&node, held, path, body)).await, "no-object-store", "{path}");
    }
    world.end(&node, held, Some(FailureKind::ExitNonzero)).await;
}

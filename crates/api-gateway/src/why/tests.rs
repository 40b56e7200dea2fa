use super::*;
use api_types::why::Verdict;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    attempt::AttemptRow,
    ids::{AttemptId, DEFAULT_PROJECT, Fence, NodeId, TaskId},
    node::{Admission, NodeFacts, NodeMetrics, NodeView, Presence},
    outcome::{Ending, FailureKind, LogTotals},
    resources::{Capacity, Gpu, Ledger, Reservation},
    spec::parse_spec,
};
use serde_json::{Value, json};
use store::{AttemptView, TaskView};
use uuid::Uuid;

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}
fn ago(seconds: i64) -> DateTime<Utc> {
    now() - TimeDelta::seconds(seconds)
}

/// A node with 16 CPUs, 62 GiB, and GPUs of so many GiB.
fn node(name: &str, gpus_gib: &[u64]) -> Candidate {
    let gpu = |(n, gib): (usize, &u64)| Gpu { id: format!("GPU-{n}"), model: "RTX".into(), memory_bytes: gib << 30 };
    let capacity = Capacity {
        cpu_millis: 16_000,
        memory_bytes: 62 << 30,
        disk_bytes: 900 << 30,
        gpus: gpus_gib.iter().enumerate().map(gpu).collect(),
    };
    let facts = NodeFacts {
        platform: "linux".into(),
        arch: "x86_64".into(),
        executors: [("process".to_owned(), "1".to_owned())].into(),
        internet: true,
        capacity: capacity.clone(),
        ..NodeFacts::default()
    };
    let node = NodeView {
        id: NodeId::from_uuid(Uuid::from_u128(name.bytes().fold(0, |sum, b| sum * 31 + u128::from(b)))),
        name: name.into(),
        facts,
        metrics: NodeMetrics::default(),
        presence: Presence::Connected,
        admission: Admission::Open,
        admission_note: String::new(),
        drain_deadline: None,
        probe_at: None,
        last_seen_at: Some(ago(5)),
        connected_since: Some(ago(9_999)),
        created_at: ago(99_999),
    };
    Candidate { node, ledger: Ledger::new(capacity), holding: 0, may_probe: false, waiting: Default::default() }
}
fn full(mut node: Candidate) -> Candidate {
    let gpu_ids = node.ledger.capacity().gpus.iter().map(|gpu| gpu.id.clone()).collect();
    node.ledger.hold(&Reservation { gpu_ids, ..Reservation::default() });
    node.holding = 1;
    node
}
fn offline(mut node: Candidate) -> Candidate {
    node.node.presence = Presence::Offline;
    node.node.last_seen_at = Some(ago(26 * 60));
    node
}
fn draining(mut node: Candidate) -> Candidate {
    node.node.admission = Admission::Draining;
    node.node.admission_note = "by ben".into();
    node
}

fn task(name: &str, state: TaskState, body: Value) -> TaskDetail {
    let mut body = body;
    body["command"] = json!(["ls"]);
    body["name"] = json!(name);
    let view = TaskView {
        id: TaskId::from_uuid(Uuid::from_u128(0xc930_4e77)),
        project: DEFAULT_PROJECT,
        project_slug: "default".into(),
        name: name.into(),
        created_by: "ana".into(),
        created_at: ago(252),
        state,
        queued: state == TaskState::Pending,
        failure: None,
        exit_code: None,
        message: String::new(),
        cancel_requested: false,
        not_before: None,
        ended_at: None,
        attempts: 0,
        user_failures: 0,
        infra_failures: 0,
        node_losses: 0,
        node: None,
        node_offline: false,
        replaceable_at: None,
        started_at: None,
        exit: None,
        ending: None,
        provenance: None,
        log_bytes: 0,
    };
    TaskDetail { view, spec: parse_spec(&body).expect("a good task"), attempts: Vec::new() }
}
fn attempt(number: u32, state: AttemptState, node: &str) -> AttemptView {
    let row = AttemptRow {
        id: AttemptId::from_uuid(Uuid::from_u128(u128::from(number))),
        task: TaskId::from_uuid(Uuid::from_u128(0xc930_4e77)),
        number,
        node: NodeId::from_uuid(Uuid::from_u128(1)),
        fence: Fence::from_i64(1),
        state,
        reservation: Reservation::default(),
        reserved: true,
        placed_at: ago(1_700),
        accepted_at: None,
        preparing_at: None,
        started_at: Some(ago(1_682)),
        exited_at: None,
        ended_at: None,
        exit: None,
        ending: None,
        provenance: None,
        outputs_stored: 0,
    };
    AttemptView { row, node_name: node.into() }
}
fn entry(seq: i64, seconds_ago: i64, event: Event) -> EventRow {
    let task = TaskId::from_uuid(Uuid::from_u128(0xc930_4e77));
    EventRow { seq, task, at: ago(seconds_ago), state: TaskState::Pending, events: vec![event] }
}

fn why(task: &TaskDetail, nodes: &[Candidate], history: &[EventRow], before: u64) -> Why {
    explain(&Known { now: now(), task, nodes, history, before, log_tail: b"" })
}
fn told(verdicts: &[Verdict]) -> Vec<String> {
    verdicts
        .iter()
        .map(|v| {
            format!(
                "{} {}{}: {}",
                v.count,
                v.reason,
                if v.would_fit { ", would fit" } else { "" },
                v.examples.join(", ")
            )
        })
        .collect()
}

fn lab() -> Vec<Candidate> {
    vec![
        full(node("lab-3", &[24])),
        full(node("lab-7", &[24])),
        node("server", &[]),
        node("pi-attic", &[]),
        node("laptop-old", &[]),
        node("lab-1", &[8]),
        node("lab-2", &[12]),
        offline(node("lab-4", &[24])),
        draining(node("lab-5", &[24, 24])),
    ]
}
fn sweep() -> TaskDetail {
    let needs = json!({"gpus": 1, "gpu_memory": "24GiB", "cpu_cores": 4, "memory": "16GiB", "internet": true});
    task("sweep-17", TaskState::Pending, json!({"requirements": needs}))
}

#[test]
fn every_node_is_counted_once_and_what_would_help_is_tried() {
    let why = why(&sweep(), &lab(), &[entry(1, 252, Event::Submitted)], 3);
    assert_eq!(why.summary, "sweep-17 is pending for 4m 12s: 2 nodes fit, and both are full.");
    let waiting = why.waiting.expect("it waits");
    assert_eq!(waiting.needs, "1 gpu with 24 GiB, 4 cpu, 16 GiB, internet");
    assert_eq!(
        told(&waiting.verdicts),
        [
            "2 full now, would fit: lab-3, lab-7",
            "3 no gpu: laptop-old, pi-attic, server",
            "2 gpu memory too small: lab-1 (8 GiB), lab-2 (12 GiB)",
            "1 draining, would fit: lab-5 (by ben)",
            "1 offline, would fit: lab-4 (for 26m 00s)",
        ]
    );
    assert_eq!(waiting.verdicts.iter().map(|verdict| verdict.count).sum::<u32>(), waiting.nodes);
    assert_eq!((waiting.nodes, waiting.before, waiting.never_fits), (9, 3, false));
    assert_eq!(why.hints, ["gpu_memory 12GiB would fit lab-2 now", "unidesk node resume lab-5"]);
}

#[test]
fn what_can_never_run_says_so_and_until_when_it_waits() {
    let needs = json!({"gpus": 1, "gpu_memory": "80GiB"});
    let task = task("big-llm", TaskState::Pending, json!({"requirements": needs, "queue_timeout": "24h"}));
    let why = why(&task, &lab(), &[entry(1, 540, Event::Submitted)], 0);
    assert_eq!(
        why.summary,
        "big-llm is pending for 9m 00s, and no node of this fleet can ever run it: gpu_memory 80GiB, the most is 24 GiB \
         (lab-3, lab-7, lab-4, lab-5). It fails in 23h 51m (queue_timeout) unless such a node joins."
    );
    assert!(why.waiting.expect("it waits").never_fits);
    assert_eq!(why.hints, ["gpu_memory 12GiB would fit lab-2 now"]);
}

#[test]
fn the_need_that_no_node_meets_is_named() {
    let what = |body: Value| {
        let needs = task("t", TaskState::Pending, body).spec.needs();
        let found = crate::fleet::impossible(&lab(), &needs).expect("no node can");
        (found.pointer, found.what)
    };
    let asked = |requirements: Value| what(json!({ "requirements": requirements }));
    assert_eq!(
        asked(json!({"cpu_cores": 64})),
        (
            "#/requirements/cpu_cores",
            "cpu_cores 64, the most is 16 (lab-3, lab-7, server, pi-attic, laptop-old)".into()
        )
    );
    assert_eq!(asked(json!({"gpus": 3})), ("#/requirements/gpus", "gpus 3, the most is 2 (lab-5)".into()));
    assert_eq!(
        asked(json!({"platform": "windows"})),
        ("#/requirements/platform", "platform windows, and there is linux".into())
    );
    assert_eq!(
        asked(json!({"labels": {"site": "lab-2"}})),
        ("#/requirements/labels", "no node has the labels site=lab-2".into())
    );
    assert_eq!(asked(json!({"tags": ["x"]})), ("#/requirements/tags", "no node has the tags x".into()));
    assert_eq!(asked(json!({"node": "lab-9"})), ("#/requirements/node", "there is no node lab-9".into()));
    assert_eq!(
        asked(json!({"node": "server", "gpus": 1})),
        ("#/requirements/gpus", "gpus 1, and no node has one".into())
    );
    assert_eq!(what(json!({"executor": "echo"})), ("#/executor", "no node offers the executor echo".into()));
    // Each need alone is met somewhere.
    let mut large = node("large", &[]);
    large.node.facts.capacity.memory_bytes = 500 << 30;
    large.ledger = Ledger::new(large.node.facts.capacity.clone());
    let needs = task("t", TaskState::Pending, json!({"requirements": {"gpus": 1, "memory": "400GiB"}})).spec.needs();
    let found = crate::fleet::impossible(&[large, node("lab-1", &[8])], &needs).expect("no node can");
    assert_eq!(
        (found.pointer, found.what.as_str()),
        ("#/requirements", "no node has all that it needs (1 memory too small, 1 no gpu)")
    );
}

#[test]
fn other_waits_have_their_own_sentences() {
    let one = task("t", TaskState::Pending, json!({}));
    let submitted = [entry(1, 2, Event::Submitted)];
    let none = why(&one, &[], &submitted, 0);
    assert_eq!(none.summary, "t is pending for 2.0 s: no node has joined this fleet yet.");
    assert_eq!(none.hints, ["unidesk node-token create --name NAME"]);
    assert_eq!(
        why(&one, &lab(), &submitted, 0).summary,
        "t is pending for 2.0 s: 7 nodes fit and have room; it is placed in a moment."
    );
    assert_eq!(
        why(&one, &lab(), &submitted, 1).summary,
        "t is pending for 2.0 s: 7 nodes fit and have room; 1 task is before it by priority and age."
    );
    let away = [offline(node("a", &[])), draining(node("b", &[]))];
    let answer = why(&one, &away, &submitted, 0);
    assert_eq!(
        answer.summary,
        "t is pending for 2.0 s: no node that would fit takes work now (1 draining, 1 offline)."
    );
    assert_eq!(answer.hints, ["unidesk node resume b"]);

    let mut again = task("t", TaskState::Pending, json!({}));
    again.view.not_before = Some(now() + TimeDelta::seconds(12));
    let requeued = Event::Requeued {
        not_before: again.view.not_before,
        because: "node_error: Docker went away".into(),
        silent_since: None,
    };
    let answer = why(&again, &lab(), &[entry(1, 99, Event::Submitted), entry(2, 3, requeued)], 0);
    assert_eq!(answer.summary, "t waits 12 s more before its next attempt, after node_error: Docker went away.");
    assert_eq!(answer.waiting.map(|waiting| waiting.since), Some(ago(3)), "since it was queued last");
}

#[test]
fn a_placed_task_says_where_it_is() {
    let mut running = task("train", TaskState::Running, json!({}));
    running.view.node = Some("lab-7".into());
    running.view.attempts = 2;
    running.attempts = vec![attempt(1, AttemptState::Lost, "lab-3"), attempt(2, AttemptState::Running, "lab-7")];
    assert_eq!(why(&running, &lab(), &[], 0).summary, "train is running on lab-7 for 28m 02s, attempt 2.");
    running.view.cancel_requested = true;
    assert!(why(&running, &lab(), &[], 0).summary.ends_with("Its end was asked for, and lab-7 is told."));
    running.view.cancel_requested = false;
    running.view.node_offline = true;
    assert!(why(&running, &lab(), &[], 0).summary.ends_with("lab-7 is offline. The task may well be running on."));
    running.view.queued = true;
    let queued = why(&running, &lab(), &[], 0);
    assert!(queued.summary.contains("is queued again") && queued.waiting.is_some());
}

#[test]
fn a_build_that_went_well_beside_code_that_could_not_be_had_is_no_evidence() {
    let shown = |failure| {
        let mut failed = task("train", TaskState::Failed, json!({}));
        failed.view.failure = Some(failure);
        failed.attempts = vec![attempt(1, AttemptState::Failed, "lab-3")];
        let log_tail = b"=> [2/2] RUN pip install .\n";
        let known = Known { now: now(), task: &failed, nodes: &lab(), history: &[], before: 0, log_tail };
        explain(&known).ended.expect("it ended").last_lines
    };
    assert!(shown(FailureKind::SourceUnavailable).is_empty());
    assert!(shown(FailureKind::InputUnavailable).is_empty());
    assert_eq!(shown(FailureKind::BuildFailed), ["=> [2/2] RUN pip install ."]);
}

#[test]
fn an_end_has_its_story() {
    let mut lost = task("train", TaskState::Failed, json!({}));
    lost.view.node = Some("lab-7".into());
    lost.view.attempts = 2;
    lost.view.failure = Some(FailureKind::ExitNonzero);
    lost.view.message = "exit 3 (not retried: its own failure, and max_retries is 0)".into();
    let mut last = attempt(2, AttemptState::Failed, "lab-7");
    let log = LogTotals { bytes: 61_882, complete: true };
    last.row.ending = Some(Ending { log, ..Ending::failed(FailureKind::ExitNonzero, "exit 3") });
    let id = last.row.id;
    lost.attempts = vec![attempt(1, AttemptState::Lost, "lab-3"), last];
    let node = NodeId::from_uuid(Uuid::from_u128(1));
    let first = lost.attempts[0].row.id;
    let ended = |attempt, state, failure, message: &str| Event::Ended {
        attempt,
        state,
        failure: Some(failure),
        message: message.into(),
    };
    let history = [
        entry(1, 90, Event::Submitted),
        entry(2, 80, Event::Placed { attempt: first, number: 1, node }),
        entry(3, 70, ended(first, AttemptState::Lost, FailureKind::NodeLost, "the node was offline")),
        entry(4, 60, Event::Placed { attempt: id, number: 2, node }),
        entry(5, 50, Event::Started { attempt: id }),
        entry(6, 40, Event::Exited { attempt: id, code: Some(3) }),
        entry(7, 30, ended(id, AttemptState::Failed, FailureKind::ExitNonzero, "exit 3")),
        entry(8, 30, Event::Finished { state: TaskState::Failed, failure: Some(FailureKind::ExitNonzero) }),
    ];
    let answer = why(&lost, &lab(), &history, 0);
    assert_eq!(
        answer.summary,
        "train failed: exit_nonzero, attempt 2, on lab-7: exit 3 (not retried: its own failure, and max_retries is 0)."
    );
    let evidence: Vec<String> =
        answer.ended.expect("it ended").evidence.into_iter().map(|evidence| evidence.what).collect();
    assert_eq!(
        evidence,
        [
            "submitted",
            "placed on lab-3",
            "attempt 1 lost: node_lost, the node was offline",
            "attempt 2 placed on lab-7",
            "its process started",
            "exit 3",
            "attempt 2 failed: exit_nonzero, exit 3; the log is complete (61,882 bytes)",
        ]
    );
    assert_eq!(answer.hints, ["unidesk logs c9304e77", "unidesk retry c9304e77"]);
}

/// What is told line by line, with the seconds before now.
fn lines(evidence: &[api_types::why::Evidence]) -> Vec<String> {
    evidence.iter().map(|it| format!("{:>3} {}", (now() - it.at).num_seconds(), it.what)).collect()
}

#[test]
fn a_poisoned_task_names_the_machines_that_went_down_and_what_to_do() {
    let mut task = task("train", TaskState::Failed, json!({}));
    task.view.node = Some("lab-7".into());
    task.view.attempts = 2;
    task.view.node_losses = 2;
    task.view.failure = Some(FailureKind::Poison);
    task.view.message = "two machines went down while it ran there".into();
    task.attempts = vec![attempt(1, AttemptState::Failed, "lab-3"), attempt(2, AttemptState::Lost, "lab-7")];
    let node = NodeId::from_uuid(Uuid::from_u128(1));
    let (first, second) = (task.attempts[0].row.id, task.attempts[1].row.id);
    let down = |attempt, after_ms| Event::NodeWentDown { attempt, node, after_ms };
    let ended = |attempt, state, message: &str| Event::Ended {
        attempt,
        state,
        failure: Some(FailureKind::NodeLost),
        message: message.into(),
    };
    let mut history = vec![
        entry(1, 300, Event::Submitted),
        entry(2, 290, Event::Placed { attempt: first, number: 1, node }),
        entry(3, 280, Event::Started { attempt: first }),
        entry(4, 200, ended(first, AttemptState::Failed, "it was gone when the agent came back")),
        entry(5, 199, Event::Placed { attempt: second, number: 2, node }),
        entry(6, 190, Event::Started { attempt: second }),
        entry(7, 80, down(second, 18_000)),
    ];
    history[3].events.push(down(first, 40_000));
    history[3].events.push(Event::Requeued {
        not_before: None,
        because: "node_lost: it was gone".into(),
        silent_since: None,
    });
    history[6].events.push(ended(second, AttemptState::Lost, "its node fell silent while it ran"));
    history[6].events.push(Event::Finished { state: TaskState::Failed, failure: Some(FailureKind::Poison) });
    let answer = why(&task, &lab(), &history, 0);
    assert_eq!(answer.summary, "train failed: poison, attempt 2, on lab-7: two machines went down while it ran there.");
    assert_eq!(
        lines(&answer.ended.expect("it ended").evidence),
        [
            "300 submitted",
            "290 placed on lab-3",
            "280 its process started",
            "200 attempt 1 failed: node_lost, it was gone when the agent came back",
            "200 lab-3 went down 40 s after the start there",
            "200 queued again: node_lost: it was gone",
            "199 attempt 2 placed on lab-7",
            "190 its process started",
            " 80 lab-7 went down 18 s after the start there",
            " 80 attempt 2 lost: node_lost, its node fell silent while it ran",
        ]
    );
    assert_eq!(
        answer.hints,
        [
            "unidesk logs c9304e77",
            "what the kernel's log of lab-3 and lab-7 says of that moment",
            "unidesk retry c9304e77 once it can do no harm"
        ]
    );
    assert_eq!(
        answer.budgets.as_deref(),
        Some("infrastructure failures in a row 0 of 5, own failures 0 of 0, nodes lost or drained 2 of 100")
    );
}

#[test]
fn a_task_that_is_at_it_again_tells_what_became_of_its_earlier_attempts() {
    let mut task = task("train", TaskState::Running, json!({"retry": {"max_retries": 1}}));
    task.view.node = Some("lab-7".into());
    task.view.attempts = 3;
    task.view.infra_failures = 1;
    task.view.node_losses = 1;
    let numbered = |number, state, name: &str| attempt(number, state, name);
    task.attempts = vec![
        numbered(1, AttemptState::Failed, "lab-3"),
        numbered(2, AttemptState::Lost, "lab-5"),
        numbered(3, AttemptState::Running, "lab-7"),
    ];
    let node = NodeId::from_uuid(Uuid::from_u128(1));
    let ids: Vec<AttemptId> = task.attempts.iter().map(|attempt| attempt.row.id).collect();
    let ended = |attempt, state, kind, message: &str| Event::Ended {
        attempt,
        state,
        failure: Some(kind),
        message: message.into(),
    };
    let mut history = vec![
        entry(1, 300, Event::Submitted),
        entry(2, 290, Event::Placed { attempt: ids[0], number: 1, node }),
        entry(3, 280, ended(ids[0], AttemptState::Failed, FailureKind::NodeError, "Docker went away")),
        entry(4, 270, Event::Placed { attempt: ids[1], number: 2, node }),
        entry(
            5,
            160,
            Event::Requeued { not_before: None, because: "its node is offline".into(), silent_since: Some(ago(252)) },
        ),
        entry(6, 159, ended(ids[1], AttemptState::Lost, FailureKind::NodeLost, "its node was offline")),
        entry(7, 150, Event::Started { attempt: ids[2] }),
    ];
    let pause = Event::Requeued {
        not_before: Some(ago(268)),
        because: "node_error: Docker went away".into(),
        silent_since: None,
    };
    history[2].events.push(pause);
    history[5].events.push(Event::Placed { attempt: ids[2], number: 3, node });
    let answer = why(&task, &lab(), &history, 0);
    assert_eq!(
        lines(&answer.chain),
        [
            "300 submitted",
            "290 placed on lab-3",
            "280 attempt 1 failed: node_error, Docker went away",
            "280 queued again after a pause of 12 s: node_error: Docker went away",
            "270 attempt 2 placed on lab-5",
            "160 queued again: its node is offline, its last heartbeat came 1m 32s before",
            "159 attempt 2 lost: node_lost, its node was offline",
            "159 attempt 3 placed on lab-7",
            "150 its process started",
        ]
    );
    assert_eq!(
        answer.budgets.as_deref(),
        Some("infrastructure failures in a row 1 of 5, own failures 0 of 1, nodes lost or drained 1 of 100")
    );
}

#[test]
fn a_queue_timeout_says_what_was_in_the_way() {
    let mut late = sweep();
    late.view.state = TaskState::Failed;
    late.view.queued = false;
    late.view.failure = Some(FailureKind::QueueTimeout);
    late.view.message = "no node took it within its queue_timeout of 1h 00m".into();
    let answer = why(&late, &lab(), &[entry(1, 3_600, Event::Submitted)], 0);
    assert_eq!(answer.summary, "sweep-17 failed: queue_timeout: no node took it within its queue_timeout of 1h 00m.");
    assert_eq!(answer.hints, ["a longer queue_timeout", "2 full now", "3 no gpu", "unidesk retry c9304e77"]);
}

#[test]
fn figures_are_read_in_threes() {
    assert_eq!([0, 999, 1_000, 61_882, 1_234_567].map(counted), ["0", "999", "1,000", "61,882", "1,234,567"]);
}

//! Every rendering as people see it. A changed golden is a changed interface.

use crate::values::{ID, attempt, ended, merge, moved, node, now, provenance, spec, task, view};
use api_types::{Problem, node::SilenceAlarm, task::TaskPage, why::Why};
use domain::fault::Fault;
use insta::assert_snapshot;
use serde_json::{Value, json};
use unidesk::{
    failure::Failure,
    output::json_line,
    render::{self, View, provenance::Provenance},
    style::Style,
};

fn live_and_ended() -> Vec<api_types::task::Task> {
    vec![
        task(
            "pending",
            json!({"id": "01a20390-8054-7c41-9d2f-6b0e5d1180ac", "name": "sweep-17", "created_at": "2026-11-22T14:26:00Z",
            "message": "2 nodes fit, both full"}),
        ),
        moved("running", json!({})),
        ended(
            "succeeded",
            json!({"id": "01a20390-8054-7c41-9d2f-6b0e8e02b6f1", "duration_ms": 185_000, "exit_code": 0, "created_at": "2026-11-22T12:30:00Z"}),
        ),
        ended(
            "out_of_memory",
            json!({"id": "01a20390-8054-7c41-9d2f-6b0ec9304e77", "name": "eval\u{1b}[31m\nevil", "duration_ms": 100_412, "exit_code": 137, "created_at": "2026-11-22T11:30:00Z"}),
        ),
        ended(
            "exit_nonzero",
            json!({"id": "01a20390-8054-7c41-9d2f-6b0ec9304e78", "name": "short", "duration_ms": 400, "exit_code": 3, "created_at": "2026-11-19T11:30:00Z"}),
        ),
    ]
}

#[test]
fn list() {
    let tasks = live_and_ended();
    assert_snapshot!("list", render::list::for_people(&tasks, &view()));
    assert_snapshot!("list_piped", render::list::for_programs(&tasks, &view()));
    assert_snapshot!("list_narrow", render::list::for_people(&tasks, &View { width: 70, ..view() }));
    let colour = Style { colour: true, unicode: true };
    assert_snapshot!(
        "list_in_colour",
        render::list::for_people(&tasks, &View { style: colour, ..view() }).replace('\x1b', "<ESC>")
    );
    let footer = |shown, found, live, counts_are_minimum| {
        let page = TaskPage { tasks: Vec::new(), found, live, counts_are_minimum, next_cursor: None };
        render::list::footer(shown, &page)
    };
    assert_snapshot!(
        "list_footers",
        [footer(0, 0, 0, false), footer(4, 1204, 2, false), footer(1, 1, 0, false), footer(10, 11, 2, true)].join("\n")
    );
}

#[test]
fn status_of_a_task_whose_node_is_offline() {
    let away = json!({"condition": "node_offline", "replaceable_at": "2026-11-22T15:31:52Z", "node": "lab-3", "started_at": "2026-11-22T14:00:00Z"});
    let shown = render::status::for_people(&task("running", away), &view());
    assert_snapshot!("status_offline", shown);
}

#[test]
fn audit() {
    let audit: api_types::audit::Audit = serde_json::from_value(json!({"clean": false, "invariants": [
        {"id": "one-live-attempt", "says": "A task has at most one live attempt.", "state": "holds"},
        {"id": "fences-grow", "says": "Each attempt of a task has a higher fence than the one before.", "state": "broken",
         "rows": ["attempt 7 of task 1 has fence 4 after 5", "attempt 8\u{1b}[2J"], "more": 1_204},
        {"id": "logs-have-no-silent-gap", "says": "What is missing has a record.", "state": "unknown", "because": "it took longer than 25 s"},
    ]}))
    .expect("an audit");
    assert_snapshot!("audit", render::audit::for_people(&audit, &Style::PLAIN));
}

#[test]
fn status() {
    assert_snapshot!("status_running", render::status::for_people(&moved("running", json!({})), &view()));
    assert_snapshot!(
        "status_pending",
        render::status::for_people(&task("pending", json!({"spec": spec(), "message": "waits for a node"})), &view())
    );
    let failed = ended(
        "out_of_memory",
        json!({
            "duration_ms": 100_412, "exit_code": 137, "signal": 9, "peak_memory_bytes": 17_179_869_184u64, "cpu_ms": 61_000,
            "message": "killed at its own limit, 16 GiB\nsecond line (not retried: on_exit_codes has only [75])",
            "log": {"bytes": 61882, "complete": false},
            "attempts": [attempt(1, "lab-5", "failed", json!({
                "started_at": "2026-11-22T13:06:41Z", "ended_at": "2026-11-21T13:10:00Z", "failure": "out_of_memory",
                "exit": {"code": 137, "signal": 9, "oom": true, "duration_ms": 100_412}}))],
        }),
    );
    assert_snapshot!("status_failed", render::status::for_people(&failed, &view()));
    assert_snapshot!(
        "status_cancelling",
        render::status::for_people(
            &task(
                "running",
                json!({"cancel_requested": true, "condition": "node_offline", "node": "a\u{7}b", "started_at": "2026-11-22T14:29:00Z"})
            ),
            &view()
        )
    );
}

fn why(value: Value) -> String {
    let why: Why = serde_json::from_value(value).expect("a why");
    render::why::for_people(&why, &view())
}

#[test]
fn why_it_waits() {
    let pending = |waiting: Value, summary: &str, hints: Value| json!({"task": ID, "name": "sweep-17", "state": "pending", "summary": summary, "hints": hints, "waiting": waiting});
    let verdict = |count: u32, reason: &str, would_fit: bool, examples: &[&str]| json!({"count": count, "reason": reason, "would_fit": would_fit, "examples": examples});
    assert_snapshot!(
        "why_pending",
        why(pending(
            json!({"since": "2026-11-22T14:25:48Z", "needs": "1 gpu with 24 GiB, 4 cpu, 16 GiB, internet", "nodes": 9, "before": 3, "never_fits": false,
            "not_before": "2026-11-22T14:31:00Z",
            "verdicts": [verdict(2, "full now", false, &["lab-3", "lab-7"]), verdict(7, "no gpu", false, &["server", "pi-attic", "laptop-old", "x", "y"]),
                verdict(1, "offline", true, &["lab-4"])]}),
            "sweep-17 is pending for 4m 12s: 2 nodes fit, and both are full.",
            json!(["gpu_memory 12GiB would fit lab-2 now", "unidesk node resume lab-5"]),
        ))
    );
    assert_snapshot!(
        "why_never_fits",
        why(pending(
            json!({"since": "2026-11-22T14:21:00Z", "needs": "1 gpu with 80 GiB", "nodes": 1, "before": 0, "never_fits": true, "not_before": null,
            "verdicts": [verdict(1, "gpu memory too small", false, &["lab-1\u{1b}]0;x\u{7}"])]}),
            "big-llm is pending for 9m, and no node of this fleet can ever run it: gpu_memory 80GiB, the most is 24 GiB.",
            json!([]),
        ))
    );
    assert_snapshot!(
        "why_no_nodes",
        why(pending(
            json!({"since": "2026-11-22T14:21:00Z", "needs": "1 cpu", "nodes": 0, "before": 0, "never_fits": true, "not_before": null, "verdicts": []}),
            "ls is pending for 9m: there are no nodes.",
            json!(["unidesk node-token create --name NAME"]),
        ))
    );
}

#[test]
fn why_it_ended() {
    assert_snapshot!(why(json!({
        "task": ID, "name": "eval", "state": "failed", "summary": "eval failed: out_of_memory, attempt 1, on lab-5 after 1m 40s",
        "ended": {"outcome": "out_of_memory", "node": "lab-5", "attempt": 1, "exit": null,
            "evidence": [{"at": "2026-11-22T13:02:42.900Z", "what": "the kernel killed its process at the limit of 16 GiB"},
                {"at": "2026-11-21T13:02:43.100Z", "what": "exit 137, signal 9"}],
            "last_lines": ["epoch 3", "\u{1b}[31mMemoryError\u{1b}[0m", ""]},
        "hints": ["memory 24GiB fits 3 nodes"],
    })));
}

/// Reads a data set and leaves a model.
fn with_files(state: &str, with: Value) -> api_types::task::Task {
    let mut spec = spec();
    let digest = "5c".repeat(32);
    let pinned = json!({"id": "01a20390-8054-7c41-9d2f-0000000000aa", "name": "imagenet", "version": 3, "kind": "directory",
                        "size": 13_314_398_618u64, "sha256": digest});
    spec["inputs"] = json!([{"artifact": "imagenet", "path": "/data/imagenet", "pinned": pinned},
                            {"artifact": "weights@2", "path": "/workspace/start.pt"}]);
    spec["outputs"] = json!([{"path": "/workspace/out/**/*.pt", "name": "resnet"}, {"path": "/workspace/report.html", "name": "report", "on": "always"}]);
    let mut all = json!({"spec": spec, "node": "lab-3", "attempt": 2, "attempts": [attempt(1, "lab-5", "lost", json!({})), attempt(2, "lab-3", state, json!({}))]});
    merge(&mut all, &with);
    task(state, all)
}

fn output(name: &str, version: u32, attempt: u32) -> Value {
    json!({"id": "01a20390-8054-7c41-9d2f-0000000000bb", "name": name, "version": version, "kind": "directory", "state": "ready",
           "size": 2_254_857_830u64, "sha256": "ab".repeat(32), "file_name": "out", "attempt": format!("01a20390-8054-7c41-9d2f-00000000000{attempt}")})
}

#[test]
fn what_a_task_reads_and_leaves() {
    let storing = with_files("finishing", json!({"artifacts": [output("report", 6, 1)]}));
    let done = json!({"artifacts": [output("resnet", 7, 2), output("report", 7, 2), output("report", 6, 1)], "outcome": "succeeded",
                      "exit_code": 0, "duration_ms": 188_000, "ended_at": "2026-11-22T14:20:00Z"});
    let failed = json!({"outcome": "output_failed", "exit_code": 0, "duration_ms": 188_000, "ended_at": "2026-11-22T14:20:00Z",
                        "message": "out/**/*.pt matches nothing; in out there are: log.txt"});
    let (done, failed) = (with_files("succeeded", done), with_files("failed", failed));
    let shown = [&storing, &done, &failed].map(|task| render::status::for_people(task, &view()));
    let ends = [&done, &failed].map(|task| render::result::ending(task).for_people(&Style::PLAIN));
    let brought = |cached: bool| {
        let inputs = json!([{"artifact": "imagenet@3", "bytes": 13_314_398_618u64, "cached": cached, "ms": 115_000, "path": "/data"}]);
        let mut all = provenance(cached);
        merge(&mut all, &json!({"inputs": inputs}));
        Provenance::read(&all)
    };
    let mut phases = render::phases::prepared(&brought(false), "torch/Dockerfile", &Style::PLAIN);
    phases.push(render::phases::placed("lab-3", 100, Some((&brought(true), 400)), &Style::PLAIN));
    phases.push(render::phases::storing(12_000, &Style::PLAIN));
    assert_snapshot!([shown.join("\n"), ends.join("\n"), phases.join("\n")].join("\n"));
}

#[test]
fn where_a_task_goes_on() {
    let stored = json!({"id": "01a20390-8054-7c41-9d2f-0000000000bb", "name": format!("checkpoint-{ID}"), "version": 3, "size": 1_288_490_188u64,
                        "attempt": "01a20390-8054-7c41-9d2f-000000000001", "stored_at": "2026-11-22T14:20:00Z"});
    let mut spec = spec();
    spec["checkpoints"] = json!({"path": "/workspace/ckpt", "every_ms": 600_000});
    let attempts = json!([attempt(1, "lab-5", "lost", json!({})), attempt(2, "lab-3", "running", json!({}))]);
    let kept = |state: &str, checkpoint: Value| {
        let all = json!({"spec": spec, "node": "lab-3", "attempt": 2, "attempts": attempts, "checkpoint": checkpoint});
        render::status::for_people(&task(state, all), &view())
    };
    let ended = json!({"outcome": "succeeded", "exit_code": 0, "duration_ms": 1_000, "ended_at": "2026-11-22T14:20:00Z", "spec": spec});
    let shown = [
        kept("running", stored),
        kept("running", Value::Null),
        render::status::for_people(&task("succeeded", ended), &view()),
    ];
    let lines = shown.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("checkpoint"));
    let mut all = provenance(true);
    let begun = json!({"artifact": format!("checkpoint-{ID}@3"), "bytes": 1_288_490_188u64, "ms": 8_100});
    merge(&mut all, &json!({"checkpoint": begun}));
    let went_on = Provenance::read(&all);
    assert!(!went_on.is_warm(), "so that it is told");
    let phases = render::phases::prepared(&went_on, "torch/Dockerfile", &Style::PLAIN);
    let all: Vec<&str> = lines.chain(phases.iter().map(String::as_str)).collect();
    assert_snapshot!(all.join("\n"));
}

#[test]
fn phases_of_a_run() {
    let style = Style::PLAIN;
    let (cold, warm) = (Provenance::read(&provenance(false)), Provenance::read(&provenance(true)));
    let mut lines = vec![
        render::phases::submitted(&task("pending", json!({})), &style),
        render::phases::submitted(&task("pending", json!({"project": "vision"})), &style),
        render::phases::pending(
            8_000,
            Some("2 nodes fit and are full; 1 task is before it by priority and age"),
            &style,
        ),
        render::phases::placed("lab-3", 11_000, None, &style),
        render::phases::preparing(72_000, None, "torch/Dockerfile", &style),
        render::phases::preparing(
            72_000,
            render::phases::read_step("Step 4/7 : RUN pip install -r req.txt").as_ref(),
            "torch/Dockerfile",
            &style,
        ),
    ];
    lines.extend(render::phases::prepared(&cold, "torch/Dockerfile", &style));
    lines.push(render::phases::placed("lab-3", 100, Some((&warm, 400)), &style));
    // An executor that says nothing, or half of it.
    lines.extend(render::phases::prepared(&Provenance::read(&json!({"gpu_ids": []})), "", &style));
    lines.extend(render::phases::prepared(&Provenance::read(&json!({"code": {}, "image": {}})), "Dockerfile", &style));
    lines.push(render::phases::still("preparing", 72_000));
    lines.push(render::phases::another_attempt(2, Some(&moved("running", json!({}))), 48_213));
    lines.push(render::phases::another_attempt(2, None, 0));
    let plain = Style { colour: false, unicode: false };
    lines.push(render::phases::placed("lab-3", 11_000, None, &plain));
    lines.extend(render::phases::warnings(&task("pending", json!({"warnings": [
        {"pointer": "#/requirements/gpu_memory", "code": "no_node_fits", "detail": "No node of this fleet can ever run it.", "hint": "the most is 24 GiB"}]}))));
    assert_snapshot!(lines.join("\n"));
}

#[test]
fn ends_of_a_run() {
    let told: Vec<String> = [
        ended("succeeded", json!({"exit_code": 0, "duration_ms": 188_000, "peak_memory_bytes": 9_878_424_780u64,
            "attempts": [attempt(1, "lab-3", "succeeded", json!({"started_at": "2026-11-22T13:06:41Z"}))]})),
        moved("succeeded", json!({"outcome": "succeeded", "exit_code": 0, "duration_ms": 3_130_000, "ended_at": "2026-11-22T14:20:00Z"})),
        ended("exit_nonzero", json!({"exit_code": 3, "duration_ms": 12_400, "message": "it exited with 3 (not retried: on_exit_codes has only [75])"})),
        ended("exit_nonzero", json!({"exit_code": 139, "signal": 11, "duration_ms": 400, "message": "signal 11 (not retried: its own failure, and max_retries is 0)"})),
        ended("out_of_memory", json!({"exit_code": 137, "signal": 9, "duration_ms": 100_000, "message": "killed at its own limit, 16 GiB"})),
        ended("build_failed", json!({"message": "torch/Dockerfile failed at line 9, step 4/7: exit code 1\nERROR: No matching distribution \u{1b}[31mfound\n (not retried: its own failure, and max_retries is 0)"})),
        ended("source_unavailable", json!({"message": "code commit 4f0c1d2e is not in https://git.example/lab/resnet.git"})),
        ended("timeout", json!({"exit_code": 143, "signal": 15, "duration_ms": 30_000, "message": "it ran into its timeout of 30 s"})),
        ended("cancelled", json!({"exit_code": 143, "duration_ms": 12_000})),
        ended("cancelled", json!({"node": null, "attempt": 0})),
        ended("node_lost", json!({"message": "its node was lost or stopped 100 times"})),
        ended("queue_timeout", json!({"node": null, "attempt": 0, "message": "no node took it within its queue_timeout of 24h"})),
    ]
    .iter()
    .map(|task| {
        let ending = render::result::ending(task);
        format!("{}exit code {}; off a terminal: {}\n", ending.for_people(&Style::PLAIN), unidesk::exit::of_task(task), ending.for_programs().join("\\n"))
    })
    .collect();
    assert_snapshot!(told.join("\n"));
}

#[test]
fn events() {
    let attempt = "01a20390-8054-7c41-9d2f-000000000001";
    let of = |with: Value| {
        let mut event = json!({"seq": 7, "task": ID, "at": "2026-11-22T13:02:43.102Z", "attempt": attempt});
        merge(&mut event, &with);
        serde_json::from_value::<api_types::event::TaskEvent>(event).expect("an event")
    };
    let node = "00000000-0000-0000-0000-0000000000a3";
    let told = [
        of(json!({"event": "submitted", "task_state": "pending"})),
        of(json!({"event": "placed", "task_state": "assigned", "number": 1, "node": node})),
        of(json!({"event": "placed", "task_state": "assigned", "number": 2, "node": node})),
        of(json!({"event": "accepted", "task_state": "assigned"})),
        of(json!({"event": "preparing", "task_state": "preparing"})),
        of(json!({"event": "prepared", "task_state": "preparing"})),
        of(json!({"event": "started", "task_state": "running"})),
        of(json!({"event": "exited", "task_state": "finishing", "code": 3})),
        of(json!({"event": "exited", "task_state": "finishing", "code": null})),
        of(
            json!({"event": "ended", "task_state": "failed", "state": "failed", "failure": "exit_nonzero", "message": "it exited with 3"}),
        ),
        of(json!({"event": "ended", "task_state": "succeeded", "state": "succeeded", "failure": null, "message": ""})),
        of(
            json!({"event": "requeued", "task_state": "pending", "not_before": null, "because": "its node was revoked"}),
        ),
        of(json!({"event": "requeued", "task_state": "pending", "not_before": null, "because": "\u{1b}[2Jevil\nline"})),
        of(json!({"event": "node_went_down", "task_state": "pending", "node": node, "after_ms": 12_000})),
        of(json!({"event": "cancel_requested", "task_state": "running"})),
        of(json!({"event": "finished", "task_state": "failed", "state": "failed", "failure": "exit_nonzero"})),
        of(json!({"event": "finished", "task_state": "cancelled", "state": "cancelled", "failure": "cancelled"})),
        of(json!({"event": "released", "task_state": "succeeded"})),
        of(json!({"event": "retry_asked", "task_state": "pending"})),
    ];
    let people: String = told.iter().map(|event| render::events::for_people(event, Some("lab-3"), &view())).collect();
    assert_snapshot!("events", people);
    let programs: String =
        told.iter().map(|event| render::events::for_programs(event, None, "740:741:~742:742:~7")).collect();
    assert_snapshot!("events_piped", programs.replace('\t', "<TAB>"));
}

#[test]
fn nodes_that_take_nothing_new() {
    let nodes = [
        node(
            "lab-1",
            json!({"admission": "cordoned", "admission_note": "every task failed here: docker: no space left"}),
        ),
        node(
            "lab-2",
            json!({"admission": "draining", "admission_note": "ben: new PSU", "drain_deadline": "2026-11-22T15:30:00Z", "tasks": 2}),
        ),
        node("lab-3", json!({"admission": "draining", "drain_deadline": "2026-11-22T14:29:00Z", "tasks": 1})),
        node(
            "lab-4",
            json!({"admission": "drained", "admission_note": "ben: new PSU", "tasks": 0,
            "reserved": {"cpu_millis": 0, "memory_bytes": 0, "gpu_ids": []}}),
        ),
    ];
    assert_snapshot!("node_list_closed", render::node::list_for_people(&nodes, Some("1.4.0"), &view()));
    assert_snapshot!("node_list_closed_piped", render::node::list_for_programs(&nodes, &view()));
    assert_snapshot!("node_list_closed_footer", render::node::list_footer(&nodes, Some("1.4.0")));
    let shown: Vec<String> = nodes.iter().map(|node| render::node::show(node, &view())).collect();
    assert_snapshot!("node_show_closed", shown.join("\n"));
}

#[test]
fn nodes() {
    let nodes = [
        node(
            "lab-4",
            json!({"presence": "offline", "last_seen_at": "2026-11-22T14:04:00Z", "reserved": {"cpu_millis": 0, "memory_bytes": 0, "gpu_ids": []}}),
        ),
        node("lab-5", json!({"admission": "draining", "admission_note": "ben: new PSU"})),
        node(
            "pi-attic",
            json!({"facts": {"agent_version": "1.3.2", "capacity": {"cpu_millis": 500, "memory_bytes": 536_870_912, "gpus": []}},
            "reserved": {"cpu_millis": 0, "memory_bytes": 0, "gpu_ids": []}, "tasks": 0, "last_seen_at": null}),
        ),
    ];
    assert_snapshot!("node_list", render::node::list_for_people(&nodes, Some("1.4.0"), &view()));
    assert_snapshot!("node_list_piped", render::node::list_for_programs(&nodes, &view()));
    assert_snapshot!(
        "node_list_footers",
        [render::node::list_footer(&nodes, Some("1.4.0")), render::node::list_footer(&[], None)].join("\n")
    );
    let alarm: SilenceAlarm = serde_json::from_value(
        json!({"silent_nodes": 12, "of_nodes": 15, "nothing_offline_before": "2026-11-22T14:32:05Z"}),
    )
    .expect("an alarm");
    let told = render::node::alarm(&alarm, &view());
    assert!(told.starts_with("12 of 15 nodes fell silent at once; nothing is called offline before "), "{told}");
    assert!(told.ends_with(":32:05"), "{told}");
    assert_snapshot!("node_show", render::node::show(&nodes[1], &view()));
    assert_snapshot!("node_show_offline", render::node::show(&nodes[0], &view()));
    let unwell = node("evil\u{1b}[2J", json!({"metrics": {"conditions": ["docker_unavailable"]}}));
    assert_snapshot!("node_show_unwell", render::node::show(&unwell, &view()));
}

fn told(failure: Failure) -> String {
    match failure {
        Failure::Told(told) => {
            format!("{}\nexit {}\n{}", told.lines(&Style::PLAIN, true).join("\n"), told.exit, json_line(&told.json))
        }
        Failure::Closed => panic!("nothing to tell"),
    }
}

#[test]
fn several_tasks_with_one_ending() {
    let twin = task(
        "running",
        json!({"id": "01a20391-0000-7c41-9d2f-6b0f41c7a93d", "name": "other\u{1b}[1m", "created_at": "2026-11-20T13:02:00Z"}),
    );
    assert_snapshot!(told(render::errors::ambiguous("41c7a93d", &[task("running", json!({})), twin], now())));
}

#[test]
fn a_refusal_names_the_flags() {
    let fault = |pointer: &str, code: &str, detail: &str, hint: Option<&str>| {
        let fault = Fault::new(pointer, code, detail);
        match hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    };
    let connection = unidesk::connection::Inputs { flag_url: Some("http://h".into()), ..Default::default() }
        .choose()
        .expect("a server");
    let refused = |faults| {
        told(Failure::of_client(&client::ClientError::Problem(Box::new(Problem::invalid_task(faults))), &connection))
    };
    assert_snapshot!(
        "refused_one",
        refused(vec![fault(
            "#/requirements/memory",
            "bad_quantity",
            "\"16 gigs\" is not a size.",
            Some("16GiB, 512MiB, or bytes as an integer")
        )])
    );
    assert_snapshot!(
        "refused_several",
        refused(vec![
            fault("#/source/env_commit_id", "required", "env_commit_id is missing.", None),
            fault(
                "#/requirements/cpu_cores",
                "bad_quantity",
                "\"x\" is not a number of CPUs.",
                Some("4, or a fraction such as 0.5")
            ),
            fault(
                "#/requirements/memroy",
                "unknown_field",
                "\"memroy\" is no field here.",
                Some("did you mean memory?")
            ),
            fault("#/env/A~1B", "reserved", "Reserved\u{1b}[31m.", None),
            fault("#/stop/grace", "out_of_range", "The grace is at most 1h.", None),
        ])
    );
    let conflict = Problem::new("already-ended", "The task succeeded 3 minutes ago; there is nothing to cancel.")
        .with("state", "succeeded");
    assert_snapshot!(
        "refused_conflict",
        told(Failure::of_client(&client::ClientError::Problem(Box::new(conflict)), &connection))
    );
}

#[test]
fn not_logged_in_says_what_was_looked_at() {
    let refused = |inputs: unidesk::connection::Inputs| {
        let connection = inputs.choose().expect("a server");
        told(Failure::of_client(
            &client::ClientError::Problem(Box::new(Problem::new("not-authenticated", "No such key."))),
            &connection,
        ))
    };
    let inputs = unidesk::connection::Inputs {
        env_url: Some("https://unidesk.lab.example".into()),
        credentials_path: "~/.config/unidesk/credentials".into(),
        ..Default::default()
    };
    assert_snapshot!("not_logged_in", refused(inputs.clone()));
    assert_snapshot!(
        "bad_token",
        refused(unidesk::connection::Inputs { env_token: Some("ud_key_x".into()), ..inputs })
    );
}

#[test]
fn json_is_one_line_with_nothing_that_moves_a_cursor() {
    let line = json_line(&task("pending", json!({"name": "a\u{9b}31m\u{7f}b\n"})));
    assert!(!line.chars().any(char::is_control));
    let read: api_types::task::Task = serde_json::from_str(&line).expect("still JSON");
    assert_eq!(read.name, "a\u{9b}31m\u{7f}b\n");
    assert_snapshot!(
        "json_task",
        json_line(&ended("out_of_memory", json!({"spec": null, "attempts": null, "exit_code": 137, "signal": 9})))
    );
}

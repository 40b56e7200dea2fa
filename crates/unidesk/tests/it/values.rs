//! Tasks and nodes as the server sends them.

use api_types::{node::Node, task::Task};
use chrono::{DateTime, FixedOffset};
use serde_json::{Value, json};
use unidesk::{render::View, style::Style};

pub(crate) const ID: &str = "01a20390-8054-7c41-9d2f-6b0e41c7a93d";

pub(crate) fn now() -> DateTime<FixedOffset> {
    "2026-11-22T15:30:00+01:00".parse().expect("a moment")
}

pub(crate) fn view() -> View {
    View { style: Style::PLAIN, width: 100, now: now() }
}

/// Later members of `with` replace the defaults; objects are merged.
pub(crate) fn merge(base: &mut Value, with: &Value) {
    match (base, with) {
        (Value::Object(base), Value::Object(with)) => {
            for (name, value) in with {
                merge(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (base, with) => *base = with.clone(),
    }
}

pub(crate) fn spec() -> Value {
    let body = json!({
        "name": "train-resnet", "command": ["python", "train.py", "--lr", "0.1"], "timeout": "6h",
        "source": {
            "code_repo_url": "https://git.example/lab/resnet.git", "code_commit_id": "4f0c1d2e3b4a59687706f5e4d3c2b1a098765432",
            "env_repo_url": "https://git.example/lab/envs.git", "env_commit_id": "0123456789abcdef0123456789abcdef01234567",
            "dockerfile_path": "torch/Dockerfile",
        },
        "requirements": {"cpu_cores": 4, "memory": "16GiB", "disk": "50GiB", "gpus": 1, "gpu_memory": "24GiB"},
    });
    serde_json::to_value(domain::spec::parse_spec(&body).expect("a good spec")).expect("JSON")
}

pub(crate) fn provenance(warm: bool) -> Value {
    json!({
        "code": {"url": "https://git.example/lab/resnet.git", "commit": "4f0c1d2e3b4a59687706f5e4d3c2b1a098765432", "tree": "91",
                 "bytes_fetched": if warm { 0 } else { 2_202_009 }, "cached": warm, "ms": 1200},
        "environment": {"url": "https://git.example/lab/envs.git", "commit": "0123456789abcdef0123456789abcdef01234567", "tree": "77",
                        "bytes_fetched": if warm { 0 } else { 49_152 }, "cached": warm, "ms": 600},
        "image": {"tag": "unidesk/x", "id": "sha256:9f2c51aa77", "warm": warm, "build_ms": 151_000, "size_bytes": 6_549_825_126u64, "steps": 7},
    })
}

pub(crate) fn attempt(number: u32, node: &str, state: &str, with: Value) -> Value {
    let mut attempt = json!({
        "id": format!("01a20390-8054-7c41-9d2f-00000000000{number}"), "number": number, "state": state,
        "node_id": "00000000-0000-0000-0000-0000000000a3", "node": node, "fence": 4294967297i64 + i64::from(number), "reserved": false,
        "placed_at": "2026-11-22T13:02:11Z", "accepted_at": null, "preparing_at": null, "started_at": null, "exited_at": null,
        "ended_at": null, "failure": null, "message": "", "exit": null, "provenance": null,
    });
    merge(&mut attempt, &with);
    attempt
}

pub(crate) fn task_json(state: &str, with: Value) -> Value {
    let mut task = json!({
        "id": ID, "name": "train-resnet", "state": state, "outcome": null, "exit_code": null, "signal": null, "message": "",
        "project": "default", "project_id": "00000000-0000-0000-0000-000000000001", "created_by": "ana",
        "created_at": "2026-11-22T13:02:00Z", "started_at": null, "ended_at": null, "duration_ms": null, "cpu_ms": null,
        "peak_memory_bytes": null, "node": null, "attempt": 0, "cancel_requested": false,
        "log": {"bytes": 0, "complete": false}, "image": null,
    });
    merge(&mut task, &with);
    task
}

pub(crate) fn task(state: &str, with: Value) -> Task {
    serde_json::from_value(task_json(state, with)).expect("a task")
}

/// On its second attempt, after a lost node.
pub(crate) fn moved(state: &str, with: Value) -> Task {
    let mut all = json!({
        "node": "lab-7", "attempt": 2, "started_at": "2026-11-22T14:01:58Z", "spec": spec(),
        "image": {"tag": "unidesk/x", "digest": "sha256:9f2c51aa77", "warm": true},
        "log": {"bytes": 62464, "complete": false},
        "attempts": [
            attempt(1, "lab-3", "lost", json!({
                "started_at": "2026-11-22T13:06:41Z", "ended_at": "2026-11-22T13:31:52Z", "failure": "node_lost",
                "message": "its node was offline", "provenance": provenance(false)})),
            attempt(2, "lab-7", "running", json!({
                "placed_at": "2026-11-22T14:01:47Z", "started_at": "2026-11-22T14:01:58Z", "provenance": provenance(true)})),
        ],
    });
    merge(&mut all, &with);
    task(state, all)
}

pub(crate) fn ended(outcome: &str, with: Value) -> Task {
    let state = match outcome {
        "succeeded" | "cancelled" => outcome,
        _ => "failed",
    };
    let mut all = json!({
        "outcome": outcome, "node": "lab-3", "attempt": 1, "ended_at": "2026-11-22T13:10:00Z", "spec": spec(),
        "attempts": [attempt(1, "lab-3", if state == "failed" { "failed" } else { state }, json!({}))],
    });
    merge(&mut all, &with);
    task(state, all)
}

pub(crate) fn node(name: &str, with: Value) -> Node {
    let gib = 1u64 << 30;
    let mut node = json!({
        "id": "00000000-0000-0000-0000-0000000000a5", "name": name, "presence": "connected", "admission": "open", "admission_note": "",
        "facts": {
            "agent_version": "1.4.0", "platform": "linux", "arch": "x86_64", "os": "Debian GNU/Linux 12", "hostname": name,
            "cpu_model": "", "capacity": {"cpu_millis": 16000, "memory_bytes": 62 * gib, "disk_bytes": 1400 * gib, "gpus": [
                {"id": "GPU-1", "model": "NVIDIA A5000", "memory_bytes": 24 * gib}, {"id": "GPU-2", "model": "NVIDIA A5000", "memory_bytes": 24 * gib}]},
            "executors": {"container": "1", "process": "1"}, "role": "compute", "tags": ["gpu-capable"], "labels": {"site": "lab-2"},
            "internet": true, "docker_version": "27.1", "gpu_driver": "580", "limits": {}, "max_tasks": 0},
        "metrics": {"cpu_percent": 31.0, "memory_used_bytes": 22 * gib, "disk_used_bytes": 400 * gib, "disk_total_bytes": 1800 * gib,
            "live_attempts": 1, "conditions": [], "warm": []},
        "reserved": {"cpu_millis": 4000, "memory_bytes": 16 * gib, "disk_bytes": 0, "gpu_ids": ["GPU-1"]},
        "tasks": 1, "last_seen_at": "2026-11-22T14:29:52Z", "connected_since": "2026-11-16T14:00:00Z", "created_at": "2026-11-01T00:00:00Z",
    });
    merge(&mut node, &with);
    serde_json::from_value(node).expect("a node")
}

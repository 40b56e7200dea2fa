use super::*;
use crate::fault::Fault;
use serde_json::{Value, json};

const COMMIT: &str = "4f0c1d2e3b4a59687706f5e4d3c2b1a098765432";

fn source() -> Value {
    json!({"code_repo_url": "https://git.example/lab/resnet.git", "code_commit_id": COMMIT,
           "env_repo_url": "https://git.example/lab/envs.git", "env_commit_id": COMMIT, "dockerfile_path": "torch/Dockerfile"})
}
fn faults(body: Value) -> Vec<Fault> {
    parse_spec(&body).expect_err("refused")
}
fn pointers(body: Value) -> Vec<(String, String)> {
    faults(body).into_iter().map(|fault| (fault.pointer, fault.code)).collect()
}

#[test]
fn a_container_task_must_name_all_five() {
    let missing =
        pointers(json!({"executor": "container", "command": ["true"], "source": {"code_repo_url": "https://h/r"}}));
    let names: Vec<_> = missing.iter().map(|(pointer, _)| pointer.as_str()).collect();
    assert_eq!(
        names,
        ["#/source/code_commit_id", "#/source/env_repo_url", "#/source/env_commit_id", "#/source/dockerfile_path"]
    );
    assert!(missing.iter().all(|(_, code)| code == "required"));
    assert_eq!(pointers(json!({"executor": "container"})).len(), 5);
}

#[test]
fn every_fault_is_named_at_once() {
    let mut source = source();
    source["code_commit_id"] = json!("main");
    let body = json!({"source": source, "requirements": {"memroy": "4GiB", "memory": "16 gigs", "gpus": -1, "cpu_cores": "many"},
        "priority": "asap", "timeout": "soon", "env": {"UNIDESK_X": "1"}, "colour": "red", "stop": {"signal": "SIGFOO"}});
    let found = pointers(body);
    for expected in [
        ("#/source/code_commit_id", "not_a_commit_id"),
        ("#/requirements/memroy", "unknown_field"),
        ("#/requirements/memory", "bad_quantity"),
        ("#/requirements/gpus", "out_of_range"),
        ("#/requirements/cpu_cores", "bad_quantity"),
        ("#/priority", "unknown_value"),
        ("#/timeout", "bad_duration"),
        ("#/env/UNIDESK_X", "reserved"),
        ("#/colour", "unknown_field"),
        ("#/stop/signal", "unknown_value"),
    ] {
        assert!(
            found.iter().any(|(pointer, code)| (pointer.as_str(), code.as_str()) == expected),
            "{expected:?} is missing in {found:?}"
        );
    }
    assert_eq!(found.len(), 10);
}

#[test]
fn a_full_task_is_read_as_written() {
    let spec =
        parse_spec(&json!({"name": "train", "source": source(), "command": ["python", "train.py"], "env": {"SEED": 7},
        "requirements": {"cpu_cores": 0.5, "memory": "16GiB", "gpus": 1, "arch": "amd64", "labels": {"site": "lab-2"}},
        "priority": "high", "timeout": "6h", "retry": {"max_retries": 1, "on_exit_codes": [75]}}))
        .expect("valid");
    assert_eq!((spec.executor.as_str(), spec.priority, spec.timeout_ms), ("container", 50, Some(21_600_000)));
    assert_eq!(spec.requirements.amounts.cpu_millis, 500);
    assert_eq!(spec.shm_bytes(), 8 << 30);
    assert_eq!(spec.requirements.arch.as_deref(), Some("x86_64"));
    assert_eq!(spec.env["SEED"], "7");
    let again: TaskSpec = serde_json::from_value(serde_json::to_value(&spec).expect("to JSON")).expect("from JSON");
    assert_eq!(again, spec);
}

#[test]
fn one_string_is_for_a_shell_and_a_list_is_not() {
    let shell = parse_spec(&json!({"command": "ls -la /tmp"})).expect("valid");
    assert_eq!((shell.executor.as_str(), shell.name.as_str()), ("process", "ls"));
    assert_eq!(shell.command.argv(), ["/bin/sh", "-c", "ls -la /tmp"]);
    let argv = parse_spec(&json!({"command": ["echo", "$(id)", "; id"]})).expect("valid");
    assert_eq!(argv.command.argv(), ["echo", "$(id)", "; id"]);
}

#[test]
fn an_exclusive_task_waits_a_quarter_of_an_hour_for_its_node_unless_it_says_otherwise() {
    let spec = |loss: Value| parse_spec(&json!({"command": ["x"], "on_node_loss": loss})).expect("valid");
    let plain = spec(json!({"exclusive": false}));
    assert_eq!((plain.on_node_loss.replace_after_ms, plain.needs().exclusive), (0, false));
    let exclusive = spec(json!({"exclusive": true}));
    assert_eq!((exclusive.on_node_loss.replace_after_ms, exclusive.needs().exclusive), (900_000, true));
    assert_eq!(spec(json!({"exclusive": true, "replace_after": 0})).on_node_loss.replace_after_ms, 0);
    // What waits of before this field was there stays in its class.
    assert!(serde_json::to_value(plain.needs()).expect("to JSON").get("exclusive").is_none());
}

#[test]
fn hostile_values_are_faults_and_never_a_panic() {
    for body in [
        json!([]),
        json!(null),
        json!("x"),
        json!({"command": "a\0b"}),
        json!({"command": ["x"], "requirements": []}),
        json!({"command": 7}),
        json!({"command": ["x"], "requirements": {"memory": -1}}),
        json!({"command": ["x"], "requirements": {"memory": 1e300}}),
        json!({"command": ["x"], "env": {"A=B": "1"}}),
        json!({"command": ["x".repeat(70_000)]}),
        json!({"command": vec!["x"; 40_000]}),
        json!({"command": ["x"], "workdir": "../x"}),
        json!({"command": ["x"], "user": "-x"}),
        json!({"executor": "process", "command": ["x"], "source": source()}),
        json!({"executor": "a/b"}),
        json!({"command": ["x"], "retry": {"on_exit_codes": [0, 256, "x"]}}),
        json!({"command": []}),
        json!({"command": ""}),
    ] {
        assert!(parse_spec(&body).is_err(), "{body}");
    }
}

#[test]
fn inputs_and_outputs_are_read_with_their_paths_made_absolute() {
    let spec = parse_spec(&json!({"source": source(), "workdir": "/workspace/train", "inputs": [
            {"artifact": "imagenet@3", "path": "/data/imagenet"}, {"artifact": "weights", "path": "./start//weights.pt"}],
        "outputs": [{"path": "out/**/*.pt", "name": "resnet"}, {"path": "/tmp/report.html", "name": "report", "on": "always"}]}))
    .expect("a good task");
    let inputs: Vec<_> = spec.inputs.iter().map(|input| (input.artifact.to_string(), input.path.as_str())).collect();
    let weights = "/workspace/train/start/weights.pt";
    assert_eq!(inputs, [("imagenet@3".to_owned(), "/data/imagenet"), ("weights".to_owned(), weights)]);
    assert_eq!(spec.outputs[0].pattern(), ("/workspace/train/out", Some("**/*.pt")));
    assert_eq!((spec.outputs[1].path.as_str(), spec.outputs[1].on), ("/tmp/report.html", OutputOn::Always));
    assert!(spec.needs().artifacts && !parse_spec(&json!({"command": ["ls"]})).expect("a good task").needs().artifacts);
    let text = serde_json::to_string(&spec).expect("JSON");
    assert_eq!(serde_json::from_str::<TaskSpec>(&text).expect("as it was"), spec);
}

#[test]
fn checkpoints_are_read_with_their_directory_and_their_time() {
    let spec = |body| parse_spec(&body).expect("a good task");
    let with = |checkpoints| json!({"source": source(), "workdir": "/workspace/train", "checkpoints": checkpoints});
    let read = spec(with(json!({"path": "ckpt", "every": "90s"})));
    let expected = Checkpoints { path: "/workspace/train/ckpt".into(), every_ms: 90_000 };
    assert_eq!(read.checkpoints, Some(expected));
    assert!(read.needs().checkpoints);
    assert_eq!(serde_json::from_value::<TaskSpec>(json!(read)).expect("as it was"), read);
    let read = spec(with(json!({"path": "/var/ckpt"})));
    assert_eq!(read.checkpoints, Some(Checkpoints { path: "/var/ckpt".into(), every_ms: 600_000 }));
    assert!(!spec(json!({"command": ["ls"]})).needs().checkpoints);

    for (checkpoints, at, code) in [
        (json!({"every": "10m"}), "/path", "required"),
        (json!({"path": "ckpt", "every": "9s"}), "/every", "out_of_range"),
        (json!({"path": "ckpt", "every": 10, "keep": 3}), "/keep", "unknown_field"),
        (json!({"path": "ckpt/*.pt"}), "/path", "bad_path"),
        (json!({"path": "."}), "/path", "bad_path"),
        (json!({"path": "/workspace"}), "/path", "bad_path"),
        (json!({"path": "/"}), "/path", "bad_path"),
        (json!({"path": "/dev/shm"}), "/path", "bad_path"),
        (json!("ckpt"), "", "wrong_type"),
    ] {
        assert_eq!(
            pointers(with(checkpoints.clone())),
            [(format!("#/checkpoints{at}"), code.to_owned())],
            "{checkpoints}"
        );
    }
    let mut within = with(json!({"path": "/data/ckpt"}));
    within["inputs"] = json!([{"artifact": "imagenet", "path": "/data"}]);
    assert_eq!(pointers(within), [("#/checkpoints/path".into(), "bad_path".into())]);
    let process = json!({"command": ["ls"], "checkpoints": {"path": "/data"}});
    assert_eq!(pointers(process), [("#/checkpoints/path".into(), "bad_path".into())]);
}

#[test]
fn what_can_be_no_input_or_output_is_refused_where_it_stands() {
    let input =
        |artifact: &str, path: &str| json!({"source": source(), "inputs": [{"artifact": artifact, "path": path}]});
    for (artifact, path, at, code) in [
        ("a b", "/data", "artifact", "bad_artifact"),
        ("x@0", "/data", "artifact", "bad_artifact"),
        ("x", "/data/../etc", "path", "bad_path"),
        ("x", "", "path", "bad_path"),
        ("x", "/da*", "path", "bad_path"),
        ("x", "/proc/x", "path", "bad_path"),
        ("x", "/", "path", "bad_path"),
        ("x", ".", "path", "bad_path"),
        ("x", "/a\nb", "path", "bad_path"),
    ] {
        assert_eq!(
            pointers(input(artifact, path)),
            [(format!("#/inputs/0/{at}"), code.to_owned())],
            "{artifact} {path}"
        );
    }
    let two = json!([{"artifact": "a", "path": "/data"}, {"artifact": "b", "path": "/data/b"}]);
    assert_eq!(pointers(json!({"source": source(), "inputs": two})), [("#/inputs/1/path".into(), "bad_path".into())]);

    let output = |path: &str, name: &str| json!({"source": source(), "outputs": [{"path": path, "name": name}]});
    for (path, name, at, code) in [
        ("out", "-x", "name", "bad_artifact"),
        ("out/[", "x", "path", "bad_path"),
        ("../out", "x", "path", "bad_path"),
        ("/", "x", "path", "bad_path"),
    ] {
        assert_eq!(pointers(output(path, name)), [(format!("#/outputs/0/{at}"), code.to_owned())], "{path} {name}");
    }
    let twice = json!([{"path": "a", "name": "x"}, {"path": "b", "name": "x"}]);
    assert_eq!(
        pointers(json!({"source": source(), "outputs": twice})),
        [("#/outputs/1/name".into(), "bad_artifact".into())]
    );
    // What is read can't be changed, so nothing is left there. What has an input in it may well be left.
    let beside = |path: &str| {
        json!({
            "source": source(),
            "inputs": [{"artifact": "x", "path": "data"}, {"artifact": "y", "path": "lib/words.txt"}],
            "outputs": [{"path": "out", "name": "fine"}, {"path": path, "name": "o"}],
        })
    };
    for (path, said) in [
        ("data", "/workspace/data is the path of an input; inputs can't be changed, so a task leaves nothing there."),
        ("/workspace/data/out/x", "/workspace/data/out/x lies in the input /workspace/data; inputs can't"),
        ("data/**/*.pt", "/workspace/data/**/*.pt lies in the input /workspace/data;"),
        ("lib/words.txt", "/workspace/lib/words.txt is the path of an input;"),
    ] {
        let faults = parse_spec(&beside(path)).expect_err(path);
        let [fault] = &faults[..] else { panic!("{faults:?}") };
        assert_eq!((fault.pointer.as_str(), fault.code.as_str()), ("#/outputs/1/path", "bad_path"), "{path}");
        assert!(fault.detail.starts_with(said), "{}", fault.detail);
    }
    for path in ["lib", "lib/*.txt", "database", "**/*.pt"] {
        assert!(parse_spec(&beside(path)).is_ok(), "{path}");
    }
    let missing = pointers(json!({"source": source(), "outputs": [{"paht": "x"}], "inputs": {}}));
    for expected in [
        ("#/outputs/0/path", "required"),
        ("#/outputs/0/name", "required"),
        ("#/outputs/0/paht", "unknown_field"),
        ("#/inputs", "wrong_type"),
    ] {
        assert!(
            missing.iter().any(|(pointer, code)| (pointer.as_str(), code.as_str()) == expected),
            "{expected:?} in {missing:?}"
        );
    }
    // A process has no files of its own outside of its workspace.
    let process = |path: &str| json!({"command": ["ls"], "inputs": [{"artifact": "x", "path": path}]});
    assert_eq!(pointers(process("/data")), [("#/inputs/0/path".into(), "bad_path".into())]);
    assert_eq!(parse_spec(&process("data")).expect("a good task").inputs[0].path, "/workspace/data");
    let many: Vec<_> = (0..65).map(|n| json!({"path": format!("o{n}"), "name": format!("o{n}")})).collect();
    assert_eq!(pointers(json!({"command": ["ls"], "outputs": many})), [("#/outputs".into(), "too_long".into())]);
}

//! From flags to the task's body. Values are passed on as they were typed: the server knows the rules, and names every fault.

use super::Args;
use domain::quantity::parse_duration_ms;
use serde_json::{Map, Value, json};

pub(in crate::commands) fn read_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("KEY=VALUE is expected".to_owned()),
    }
}

/// `KEY` alone takes the value that it has here.
pub(super) fn read_variable(text: &str) -> Result<(String, String), String> {
    if text.contains('=') {
        return read_pair(text);
    }
    std::env::var(text)
        .map(|value| (text.to_owned(), value))
        .map_err(|_| format!("KEY=VALUE is expected, or the name of a variable that is set here; {text} is not"))
}

/// `imagenet@3:/data`, `sha256:...:/data`.
pub(super) fn read_input(text: &str) -> Result<(String, String), String> {
    let prefix = if text.starts_with("sha256:") { "sha256:".len() } else { 0 };
    match text[prefix..].split_once(':') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((format!("{}{name}", &text[..prefix]), path.to_owned()))
        }
        _ => Err("NAME:PATH is expected: the artifact, and where it is to lie".to_owned()),
    }
}

/// `out/**/*.pt:resnet`. No artifact's name has a colon.
pub(super) fn read_output(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once(':') {
        Some((path, name)) if !name.is_empty() && !path.is_empty() => Ok((path.to_owned(), name.to_owned())),
        _ => Err("GLOB:NAME is expected: what is kept, and the name of the artifact that it becomes".to_owned()),
    }
}

/// `ckpt`, `ckpt:5m`. A path with a colon has its time behind it.
pub(super) fn read_checkpoint(text: &str) -> Result<(String, Option<String>), String> {
    match text.rsplit_once(':') {
        None if !text.is_empty() => Ok((text.to_owned(), None)),
        Some((path, every)) if !path.is_empty() && parse_duration_ms(every).is_some() => {
            Ok((path.to_owned(), Some(every.to_owned())))
        }
        _ => Err("PATH or PATH:TIME is expected: a directory, and how often it is stored, as in ckpt:10m".to_owned()),
    }
}

pub(super) fn body(args: &Args) -> Value {
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    let text = |value: &Option<String>| value.as_ref().map(|text| json!(text));
    let command = match (&args.line, args.argv.as_slice()) {
        (Some(line), _) => Some(json!(line)),
        (None, []) => None,
        (None, argv) => Some(json!(argv)),
    };
    put("command", command);
    put(
        "source",
        object([
            ("code_repo_url", text(&args.code_repo_url)),
            ("code_commit_id", text(&args.code_commit_id)),
            ("env_repo_url", text(&args.env_repo_url)),
            ("env_commit_id", text(&args.env_commit_id)),
            ("dockerfile_path", text(&args.dockerfile_path)),
            ("build_args", pairs(&args.build_arg)),
        ]),
    );
    put(
        "requirements",
        object([
            ("cpu_cores", text(&args.cpus)),
            ("memory", text(&args.memory)),
            ("disk", text(&args.disk)),
            ("gpus", args.gpus.map(|gpus| json!(gpus))),
            ("gpu_memory", text(&args.gpu_memory)),
            ("labels", pairs(&args.label)),
            ("node", text(&args.node)),
        ]),
    );
    put("env", pairs(&args.env));
    put("executor", text(&args.executor));
    put("timeout", text(&args.timeout));
    put("queue_timeout", text(&args.queue_timeout));
    put(
        "priority",
        args.priority.as_ref().map(|priority| priority.parse::<i64>().map_or(json!(priority), |number| json!(number))),
    );
    put("name", text(&args.name));
    put("project", text(&args.project));
    put("network", text(&args.network));
    put("user", text(&args.user));
    put("workdir", text(&args.workdir));
    put("retry", object([("max_retries", args.retries.map(|retries| json!(retries)))]));
    put("log_limit", text(&args.log_limit));
    let inputs = args.inputs.iter().map(|(name, path)| json!({"artifact": name, "path": path}));
    put("inputs", list(inputs.collect()));
    let outputs = args.outputs.iter().map(|(path, name)| json!({"path": path, "name": name}));
    let always = args.outputs_always.iter().map(|(path, name)| json!({"path": path, "name": name, "on": "always"}));
    put("outputs", list(outputs.chain(always).collect()));
    let checkpoint = args.checkpoint.as_ref();
    put(
        "checkpoints",
        checkpoint.and_then(|(path, every)| object([("path", Some(json!(path))), ("every", text(every))])),
    );
    Value::Object(body)
}

/// None when nothing is in it.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Option<Value> {
    let object: Map<String, Value> =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    (!object.is_empty()).then_some(Value::Object(object))
}

fn list(items: Vec<Value>) -> Option<Value> {
    (!items.is_empty()).then_some(Value::Array(items))
}

fn pairs(pairs: &[(String, String)]) -> Option<Value> {
    let object: Map<String, Value> = pairs.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    (!object.is_empty()).then_some(Value::Object(object))
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use domain::spec::{self, parse_spec};
    use serde_json::Value;

    fn body(words: &[&str]) -> Value {
        let cli = Cli::try_parse_from([&["unidesk", "run"], words].concat()).expect("a good line");
        match cli.command {
            Command::Run(args) => super::body(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_flag_arrives_in_a_spec_that_the_server_accepts() {
        let commit = "4f0c1d2e3b4a59687706f5e4d3c2b1a098765432";
        let line = format!(
            "--code-repo-url https://h/c.git --code-commit-id {commit} --env-repo-url https://h/e.git --env-commit-id {commit} \
             --dockerfile-path torch/Dockerfile --build-arg CUDA=12.4 --cpus 0.5 --memory 16GiB --disk 50GiB --gpus 1 \
             --gpu-memory 24GiB --label site=lab-2 --node lab-3 --env SEED=7=8 --timeout 6h --queue-timeout 24h --priority -5 \
             --name train --network none --user 1000:1000 --workdir /w --retries 2 --log-limit 1MiB --executor container \
             --input imagenet@3:/data/imagenet --output out/**/*.pt:resnet --output-always /tmp/a:b.html:report \
             --checkpoint /w/ckpt:5m \
             -- python train.py --lr 0.1"
        );
        let words: Vec<&str> = line.split_whitespace().collect();
        let spec = parse_spec(&body(&words)).expect("accepted");
        insta::assert_json_snapshot!(spec);
    }

    #[test]
    fn an_input_is_cut_at_its_first_colon_and_what_is_kept_at_its_last() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (text, name, path) in [("imagenet@3:/data", "imagenet@3", "/data"), ("x:a:b", "x", "a:b")] {
            assert_eq!(super::read_input(text), Ok((name.to_owned(), path.to_owned())));
        }
        assert_eq!(super::read_input(&format!("{digest}:/data")), Ok((digest.clone(), "/data".to_owned())));
        assert_eq!(super::read_output("a:b/*:model"), Ok(("a:b/*".to_owned(), "model".to_owned())));
        for text in ["", "imagenet", "imagenet:", ":/data", &digest] {
            assert!(super::read_input(text).is_err(), "{text}");
        }
        assert!(super::read_output("out").is_err() && super::read_output("out:").is_err());
        assert_eq!(super::read_checkpoint("ckpt"), Ok(("ckpt".to_owned(), None)));
        assert_eq!(super::read_checkpoint("a:b:90s"), Ok(("a:b".to_owned(), Some("90s".to_owned()))));
        for text in ["", ":5m", "ckpt:", "ckpt:often"] {
            assert!(super::read_checkpoint(text).is_err(), "{text}");
        }
    }

    #[test]
    fn one_string_is_for_a_shell_and_words_after_dashes_are_not() {
        let command = |words: &[&str]| parse_spec(&body(words)).expect("accepted").command;
        assert_eq!(command(&["ls -la | wc"]), spec::Command::Shell("ls -la | wc".into()));
        assert_eq!(command(&["--", "ls", "-la"]), spec::Command::Argv(vec!["ls".into(), "-la".into()]));
        assert_eq!(command(&["--", "ls"]), spec::Command::Argv(vec!["ls".into()]));
        // Flags may follow the line.
        assert_eq!(command(&["ls", "--timeout", "30s"]), spec::Command::Shell("ls".into()));
        assert_eq!(body(&[]), serde_json::json!({}));
    }
}

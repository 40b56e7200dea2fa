//! From a JSON body to a [`TaskSpec`], or to all that is wrong with it.

mod files;

use super::{
    Command, DEFAULT_LOG_LIMIT_BYTES, MAX_SPEC_BYTES, Network, OnNodeLoss, PRIORITIES, Requirements, Stop, TaskSpec,
    reader::{Faults, Reader, shown},
};
use crate::{
    fault::Fault,
    lease::EXCLUSIVE_REPLACE_AFTER_MS,
    resources::Amounts,
    retry::RetryPolicy,
    source::{CommitId, DockerfilePath, Environment, Invalid, Pinned, RepoUrl, Source, quote},
};
use serde_json::Value;

const FIELDS: &[&str] = &[
    "name",
    "project",
    "executor",
    "source",
    "command",
    "payload",
    "env",
    "metadata",
    "requirements",
    "priority",
    "timeout",
    "queue_timeout",
    "retry",
    "on_node_loss",
    "stop",
    "network",
    "user",
    "workdir",
    "log_limit",
    "inputs",
    "outputs",
    "checkpoints",
];
const SOURCE_FIELDS: &[&str] =
    &["code_repo_url", "code_commit_id", "env_repo_url", "env_commit_id", "dockerfile_path", "build_args"];
const REQUIREMENT_FIELDS: &[&str] = &[
    "cpu_cores",
    "memory",
    "disk",
    "gpus",
    "gpu_memory",
    "shm",
    "platform",
    "arch",
    "role",
    "tags",
    "internet",
    "labels",
    "affinity",
    "node",
];
const SIGNALS: &[&str] = &["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGKILL"];

/// What a task asks for when it says nothing: enough for a small program, little enough for a small machine.
const DEFAULT_AMOUNTS: Amounts =
    Amounts { cpu_millis: 1_000, memory_bytes: 512 << 20, disk_bytes: 1 << 30, gpus: 0, gpu_memory_bytes: 0 };

/// Checks a task body and names every fault in it. The project is the caller's concern.
pub fn parse_spec(body: &Value) -> Result<TaskSpec, Vec<Fault>> {
    let mut faults = Faults::new();
    if !body.is_object() {
        return Err(vec![Fault::new("#", "wrong_type", "A task is a JSON object.")]);
    }
    let top = Reader::open(body, "#", FIELDS, &mut faults);
    let executor = executor(&top, &mut faults);
    let command = command(&top, &mut faults);
    let source = source(&top, &executor, &mut faults);
    if executor == "process" && command.is_blank() && !faults.iter().any(|fault| fault.pointer.starts_with("#/command"))
    {
        faults.push(
            Fault::new("#/command", "required", "A process task needs a command.")
                .hint(r#"["python", "train.py"], or one line for a shell"#),
        );
    }
    let workdir = workdir(&top, &mut faults);
    let inputs = files::inputs(&top, &executor, &workdir, &mut faults);
    let spec = TaskSpec {
        outputs: files::outputs(&top, &executor, &workdir, &inputs, &mut faults),
        checkpoints: files::checkpoints(&top, &executor, &workdir, &mut faults),
        inputs,
        workdir,
        name: top
            .text("name", 200, &mut faults)
            .map(str::to_owned)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| default_name(&command, &executor)),
        command,
        source,
        payload: top.get("payload").cloned().unwrap_or(Value::Null),
        env: env(&top, &mut faults),
        metadata: top.texts("metadata", 4_096, &mut faults),
        requirements: requirements(&top, &mut faults),
        priority: priority(&top, &mut faults),
        timeout_ms: positive_duration(&top, "timeout", &mut faults),
        queue_timeout_ms: positive_duration(&top, "queue_timeout", &mut faults),
        retry: retry(&top, &mut faults),
        on_node_loss: on_node_loss(&top, &mut faults),
        stop: stop(&top, &mut faults),
        network: match top.one_of("network", &["default", "none"], &mut faults) {
            Some("none") => Network::None,
            _ => Network::Default,
        },
        user: user(&top, &mut faults),
        log_limit_bytes: top.bytes("log_limit", &mut faults).unwrap_or(DEFAULT_LOG_LIMIT_BYTES),
        executor,
    };
    files::keep_apart(&spec.checkpoints, &spec.inputs, &mut faults);
    if faults.is_empty() {
        let bytes = serde_json::to_vec(&spec).map_or(usize::MAX, |json| json.len());
        if bytes > MAX_SPEC_BYTES {
            faults.push(
                Fault::new("#", "too_long", format!("The spec has {bytes} bytes; at most {MAX_SPEC_BYTES} are taken."))
                    .hint("put large files into an artifact, and name it in inputs"),
            );
        }
    }
    if faults.is_empty() { Ok(spec) } else { Err(faults) }
}

fn executor(top: &Reader<'_>, faults: &mut Faults) -> String {
    let Some(name) = top.text("executor", 64, faults) else {
        // Who names a command and nothing else wants it run as it is; everything else is the main case.
        let bare = top.get("source").is_none() && top.get("command").is_some();
        return if bare { "process" } else { "container" }.to_owned();
    };
    let plain = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.'));
    if !plain {
        faults.push(
            Fault::new("#/executor", "unknown_value", format!("{} is no executor's name.", quote(name)))
                .hint("container, process, or a task type that a node offers"),
        );
    }
    name.to_owned()
}

fn command(top: &Reader<'_>, faults: &mut Faults) -> Command {
    match top.get("command") {
        None => Command::Argv(Vec::new()),
        Some(Value::String(_)) => Command::Shell(top.text("command", 32 * 1024, faults).unwrap_or_default().to_owned()),
        Some(Value::Array(_)) => {
            let argv = top.list("command", 32 * 1024, faults);
            if argv.first().is_some_and(String::is_empty) {
                faults.push(Fault::new("#/command/0", "required", "The program's name is empty."));
            }
            Command::Argv(argv)
        }
        Some(other) => {
            faults.push(top.wrong("command", "A list of strings, or one string for a shell,", other));
            Command::Argv(Vec::new())
        }
    }
}

fn default_name(command: &Command, executor: &str) -> String {
    let line = command.display();
    let first = line.split_whitespace().next().unwrap_or(executor);
    let base = first.rsplit('/').next().unwrap_or(first);
    base.chars().filter(|c| !c.is_control()).take(40).collect()
}

fn source(top: &Reader<'_>, executor: &str, faults: &mut Faults) -> Source {
    let null = Value::Null;
    let reader = Reader::open(top.get("source").unwrap_or(&null), "#/source", SOURCE_FIELDS, faults);
    let given = |name: &str| reader.get(name).is_some();
    let required: &[&str] = match executor {
        "container" => &SOURCE_FIELDS[..5],
        _ if given("env_repo_url") || given("env_commit_id") || given("dockerfile_path") => &SOURCE_FIELDS[..5],
        _ if given("code_repo_url") || given("code_commit_id") => &SOURCE_FIELDS[..2],
        _ => &[],
    };
    for name in required.iter().filter(|name| !given(name)) {
        faults.push(Fault::new(reader.at(name), "required", format!("{name} is missing.")));
    }
    if executor == "process" {
        for name in SOURCE_FIELDS[2..].iter().filter(|name| given(name)) {
            faults.push(
                Fault::new(reader.at(name), "not_for_executor", "A process task runs without an image.")
                    .hint("leave it out, or use executor: container"),
            );
        }
    }
    let code = pinned(&reader, "code_repo_url", "code_commit_id", faults);
    let repo = pinned(&reader, "env_repo_url", "env_commit_id", faults);
    let dockerfile_path = parsed(&reader, "dockerfile_path", 2_048, DockerfilePath::parse, faults);
    let build_args = reader.texts("build_args", 4_096, faults);
    Source {
        code,
        environment: repo.zip(dockerfile_path).map(|(repo, dockerfile_path)| Environment {
            repo,
            dockerfile_path,
            build_args,
        }),
    }
}

fn pinned(reader: &Reader<'_>, url: &str, commit: &str, faults: &mut Faults) -> Option<Pinned> {
    let url = parsed(reader, url, 4_096, RepoUrl::parse, faults);
    let commit = parsed(reader, commit, 4_096, CommitId::parse, faults);
    url.zip(commit).map(|(url, commit)| Pinned { url, commit })
}

fn parsed<T>(
    reader: &Reader<'_>,
    name: &str,
    max_len: usize,
    parse: fn(&str) -> Result<T, Invalid>,
    faults: &mut Faults,
) -> Option<T> {
    match parse(reader.text(name, max_len, faults)?) {
        Ok(value) => Some(value),
        Err(refusal) => {
            let fault = Fault::new(reader.at(name), refusal.code, refusal.detail);
            faults.push(match refusal.hint {
                Some(hint) => fault.hint(hint),
                None => fault,
            });
            None
        }
    }
}

fn env(top: &Reader<'_>, faults: &mut Faults) -> std::collections::BTreeMap<String, String> {
    let env = top.texts("env", 32 * 1024, faults);
    for name in env.keys() {
        if name.is_empty() || name.contains('=') {
            faults.push(Fault::new(
                format!("#/env/{name}"),
                "bad_name",
                format!("{} is no name of an environment variable.", quote(name)),
            ));
        } else if name.starts_with("UNIDESK_") {
            faults.push(Fault::new(
                format!("#/env/{name}"),
                "reserved",
                "Names that begin with UNIDESK_ are set by the platform.",
            ));
        }
    }
    env
}

fn requirements(top: &Reader<'_>, faults: &mut Faults) -> Requirements {
    let null = Value::Null;
    let reader = Reader::open(top.get("requirements").unwrap_or(&null), "#/requirements", REQUIREMENT_FIELDS, faults);
    let affinity =
        Reader::open(reader.get("affinity").unwrap_or(&null), "#/requirements/affinity", &["prefer", "avoid"], faults);
    Requirements {
        amounts: Amounts {
            cpu_millis: cpu_millis(&reader, faults).unwrap_or(DEFAULT_AMOUNTS.cpu_millis),
            memory_bytes: reader.bytes("memory", faults).unwrap_or(DEFAULT_AMOUNTS.memory_bytes),
            disk_bytes: reader.bytes("disk", faults).unwrap_or(DEFAULT_AMOUNTS.disk_bytes),
            gpus: reader.whole("gpus", 0, 1_024, faults).unwrap_or(0) as u32,
            gpu_memory_bytes: reader.bytes("gpu_memory", faults).unwrap_or(0),
        },
        shm_bytes: reader.bytes("shm", faults),
        platform: reader.one_of("platform", &["linux", "windows", "darwin", "android"], faults).map(str::to_owned),
        arch: reader.text("arch", 32, faults).map(normal_arch),
        role: reader.one_of("role", &["worker", "compute", "storage", "mobile"], faults).map(str::to_owned),
        tags: reader.set("tags", faults),
        labels: reader.texts("labels", 256, faults),
        internet: reader.flag("internet", faults),
        node: reader.text("node", 200, faults).map(str::to_owned),
        prefer: affinity.texts("prefer", 256, faults),
        avoid: affinity.texts("avoid", 256, faults),
    }
}

/// One word per architecture, whatever Docker or Debian call it.
fn normal_arch(arch: &str) -> String {
    match arch {
        "amd64" | "x64" => "x86_64",
        "arm64" => "aarch64",
        "arm" | "armhf" | "armv7l" => "armv7",
        other => other,
    }
    .to_owned()
}

fn cpu_millis(reader: &Reader<'_>, faults: &mut Faults) -> Option<u64> {
    let value = reader.get("cpu_cores")?;
    let cores = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    match cores {
        Some(cores) if (0.001..=4_096.0).contains(&cores) => Some((cores * 1_000.0).round() as u64),
        _ => {
            faults.push(
                Fault::new(
                    reader.at("cpu_cores"),
                    "bad_quantity",
                    format!("{} is not a number of CPUs.", shown(value)),
                )
                .hint("4, or a fraction such as 0.5"),
            );
            None
        }
    }
}

fn priority(top: &Reader<'_>, faults: &mut Faults) -> i32 {
    match top.get("priority") {
        None => 0,
        Some(Value::String(word)) => {
            PRIORITIES.iter().find(|(name, _)| name == word).map(|(_, value)| *value).unwrap_or_else(|| {
                faults.push(
                    Fault::new("#/priority", "unknown_value", format!("{} is no priority.", quote(word)))
                        .hint("urgent, high, normal, low, or an integer (higher is more urgent)"),
                );
                0
            })
        }
        Some(_) => top.whole("priority", -1_000_000, 1_000_000, faults).unwrap_or(0) as i32,
    }
}

fn positive_duration(top: &Reader<'_>, name: &str, faults: &mut Faults) -> Option<u64> {
    let ms = top.duration_ms(name, faults)?;
    if ms == 0 {
        faults.push(
            Fault::new(top.at(name), "bad_duration", "Zero is no time at all.").hint("leave it out for no limit"),
        );
        return None;
    }
    Some(ms)
}

fn retry(top: &Reader<'_>, faults: &mut Faults) -> RetryPolicy {
    let null = Value::Null;
    let value = top.get("retry").unwrap_or(&null);
    let reader = Reader::open(value, "#/retry", &["max_retries", "on_exit_codes", "max_infra_retries"], faults);
    let default = RetryPolicy::default();
    let mut on_exit_codes = Vec::new();
    match reader.get("on_exit_codes") {
        None => {}
        Some(Value::Array(codes)) => {
            for (i, code) in codes.iter().enumerate() {
                match code.as_i64() {
                    Some(code @ 1..=255) => on_exit_codes.push(code as i32),
                    _ => faults.push(Fault::new(
                        format!("#/retry/on_exit_codes/{i}"),
                        "out_of_range",
                        "An exit code that is a failure is 1 to 255.",
                    )),
                }
            }
        }
        Some(other) => faults.push(reader.wrong("on_exit_codes", "A list of exit codes", other)),
    }
    RetryPolicy {
        max_retries: reader.whole("max_retries", 0, 1_000, faults).map_or(default.max_retries, |n| n as u32),
        on_exit_codes,
        max_infra_retries: reader
            .whole("max_infra_retries", 0, 1_000, faults)
            .map_or(default.max_infra_retries, |n| n as u32),
    }
}

fn on_node_loss(top: &Reader<'_>, faults: &mut Faults) -> OnNodeLoss {
    let null = Value::Null;
    let reader = Reader::open(
        top.get("on_node_loss").unwrap_or(&null),
        "#/on_node_loss",
        &["replace_after", "exclusive"],
        faults,
    );
    let exclusive = reader.flag("exclusive", faults);
    let default_ms = if exclusive { EXCLUSIVE_REPLACE_AFTER_MS } else { 0 };
    OnNodeLoss { replace_after_ms: reader.duration_ms("replace_after", faults).unwrap_or(default_ms), exclusive }
}

fn stop(top: &Reader<'_>, faults: &mut Faults) -> Stop {
    let null = Value::Null;
    let reader = Reader::open(top.get("stop").unwrap_or(&null), "#/stop", &["signal", "grace"], faults);
    let default = Stop::default();
    let grace_ms = reader.duration_ms("grace", faults).unwrap_or(default.grace_ms);
    if grace_ms > 3_600_000 {
        faults.push(Fault::new("#/stop/grace", "out_of_range", "The grace is at most 1h."));
    }
    Stop { signal: reader.one_of("signal", SIGNALS, faults).map_or(default.signal, str::to_owned), grace_ms }
}

fn user(top: &Reader<'_>, faults: &mut Faults) -> Option<String> {
    let user = top.text("user", 64, faults)?;
    let plain = !user.is_empty()
        && !user.starts_with('-')
        && user.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':'));
    if !plain {
        faults.push(
            Fault::new("#/user", "unknown_value", format!("{} is no user.", quote(user)))
                .hint("1000, 1000:1000, or a name that the image knows"),
        );
    }
    Some(user.to_owned())
}

fn workdir(top: &Reader<'_>, faults: &mut Faults) -> String {
    let Some(path) = top.text("workdir", 1_024, faults) else { return "/workspace".into() };
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") || path.chars().any(char::is_control) {
        faults.push(Fault::new("#/workdir", "bad_path", format!("{} is not an absolute path.", quote(path))));
    }
    path.to_owned()
}

//! The binary as a user starts it, against a scripted server: streams, exit codes, signals.

use crate::{
    script_server::{Reply, Request, Server},
    values::{ID, attempt, merge, provenance, spec, task_json},
};
use serde_json::{Value, json};
use std::{
    process::{Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::process::{Child, Command};

pub(crate) struct Home(tempfile::TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unidesk"));
        command
            .args(words)
            .env_clear()
            .env("HOME", self.0.path())
            .env("UNIDESK_DATA_DIR", self.0.path().join("none"))
            .env("TZ", "UTC")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
    fn start(&self, url: &str, words: &[&str]) -> Child {
        self.command(words).env("UNIDESK_URL", url).env("UNIDESK_TOKEN", "ud_key_x").spawn().expect("it starts")
    }
    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }
    pub(crate) async fn run(&self, url: &str, words: &[&str]) -> Output {
        finish(self.start(url, words)).await
    }
}

async fn finish(child: Child) -> Output {
    tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await.expect("within 30 s").expect("an end")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn event(seq: u32, name: &str, with: Value) -> String {
    let mut data = json!({"seq": seq, "task": ID, "at": format!("2026-11-22T13:02:{seq:02}Z"), "task_state": "running", "event": name});
    merge(&mut data, &with);
    format!("id: {seq}\nevent: {name}\ndata: {data}\n\n")
}

const ATTEMPT: &str = "01a20390-8054-7c41-9d2f-000000000001";

/// The whole life of a task with one attempt.
fn life() -> String {
    let of = json!({"attempt": ATTEMPT});
    let placed = json!({"attempt": ATTEMPT, "number": 1, "node": "00000000-0000-0000-0000-0000000000a3"});
    [
        event(1, "submitted", json!({})),
        event(2, "placed", placed),
        event(3, "prepared", of.clone()),
        event(4, "started", of),
        "event: end\ndata: {}\n\n".to_owned(),
    ]
    .concat()
}

fn piece(ordinal: u32, stream: &str, base64: &str) -> String {
    let data =
        json!({"attempt": ATTEMPT, "number": 1, "stream": stream, "offset": 0, "ordinal": ordinal, "data": base64});
    format!("id: c{ordinal}\nevent: log\ndata: {data}\n\n")
}

fn log_end() -> String {
    format!("event: end\ndata: {}\n\n", json!({"number": 1, "state": "succeeded", "bytes": 12, "complete": true}))
}

fn ended(outcome: &str, code: Value) -> Value {
    let state = if matches!(outcome, "succeeded" | "cancelled") { outcome } else { "failed" };
    task_json(
        state,
        json!({
            "outcome": outcome, "exit_code": code, "duration_ms": 800, "node": "local", "attempt": 1, "spec": spec(),
            "attempts": [attempt(1, "local", "succeeded", json!({"provenance": provenance(true)}))],
        }),
    )
}

fn path(rest: &str) -> String {
    format!("/api/v1/tasks/{ID}{rest}")
}

/// Answers a run: submission, events, log, the ended task.
fn answer(request: &Request, log: &str, task: &Value) -> Reply {
    if request.is("POST", "/api/v1/tasks") {
        Reply::Json(201, task_json("pending", json!({})))
    } else if request.is("GET", &path("/events")) {
        Reply::Events(life())
    } else if request.is("GET", &path("/logs")) {
        Reply::Events(log.to_owned())
    } else if request.is("GET", &path("")) {
        Reply::Json(200, task.clone())
    } else {
        Reply::Json(
            404,
            serde_json::to_value(api_types::Problem::new("no-such-route", request.path.clone())).expect("JSON"),
        )
    }
}

/// `AP8K` is 00 ff 0a: no text at all. `ZXJyCg==` is `err\n`.
fn whole_log() -> String {
    [piece(1, "system", "bm90ZQo="), piece(2, "stdout", "AP8K"), piece(3, "stderr", "ZXJyCg=="), log_end()].concat()
}

#[tokio::test]
async fn off_a_terminal_a_good_run_prints_the_tasks_own_two_streams_and_nothing_else() {
    let server = Server::start(|request, _| answer(request, &whole_log(), &ended("succeeded", json!(0)))).await;
    let output = Home::new().run(&server.url, &["run", "ls", "--memory", "1GiB"]).await;
    assert_eq!((output.stdout.as_slice(), text(&output.stderr).as_str()), (&[0u8, 255, 10][..], "err\n"));
    assert_eq!(output.status.code(), Some(0));
    let submitted: Value = serde_json::from_str(&server.requests()[0].body).expect("JSON");
    assert_eq!(submitted, json!({"command": "ls", "requirements": {"memory": "1GiB"}}));
}

#[tokio::test]
async fn a_run_exits_with_what_became_of_its_task() {
    for (outcome, code, expected, told) in [
        ("exit_nonzero", json!(3), 3, "unidesk: failed: exit 3 after 0.8 s on local\n"),
        ("timeout", json!(143), 124, "unidesk: failed: timeout after 0.8 s on local\n"),
        ("cancelled", json!(143), 126, "unidesk: cancelled: after 0.8 s on local\n"),
        ("build_failed", json!(null), 120, "unidesk: failed: build_failed on local\n"),
        // The process ended well, its outputs did not.
        ("output_failed", json!(0), 120, "unidesk: failed: output_failed\n"),
    ] {
        let server = Server::start(move |request, _| answer(request, &log_end(), &ended(outcome, code.clone()))).await;
        let output = Home::new().run(&server.url, &["run", "ls"]).await;
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(expected), told), "{outcome}");
        let output = Home::new().run(&server.url, &["wait", ID]).await;
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(expected), told), "wait: {outcome}");
    }
}

#[tokio::test]
async fn plain_progress_prints_finished_phases_and_the_result() {
    let server = Server::start(|request, _| answer(request, &whole_log(), &ended("succeeded", json!(0)))).await;
    let output = Home::new().run(&server.url, &["run", "ls", "--progress", "plain"]).await;
    insta::assert_snapshot!("run_plain", text(&output.stderr));
    assert_eq!(output.stdout, [0, 255, 10]);
}

#[tokio::test]
async fn with_json_the_log_leaves_stdout_to_the_one_object() {
    let server = Server::start(|request, _| answer(request, &whole_log(), &ended("exit_nonzero", json!(124)))).await;
    let output = Home::new().run(&server.url, &["run", "ls", "-o", "json"]).await;
    let task: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(
        (&task["outcome"], &task["exit_code"], output.status.code()),
        (&json!("exit_nonzero"), &json!(124), Some(124))
    );
    assert!(output.stderr.windows(4).any(|window| window == b"err\n"));
}

#[tokio::test]
async fn a_log_that_is_cut_goes_on_where_it_was() {
    let server = Server::start(|request, _| {
        let log = match request.header("last-event-id") {
            None => piece(1, "stdout", "b25lCg=="),
            Some("c1") => [piece(2, "stdout", "dHdvCg=="), log_end()].concat(),
            Some(other) => panic!("an id that was never given: {other}"),
        };
        answer(request, &log, &ended("succeeded", json!(0)))
    })
    .await;
    let output = Home::new().run(&server.url, &["run", "ls"]).await;
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("one\ntwo\n", Some(0)));
}

/// An event of the feed: its cursor, and what happened.
fn fed(cursor: &str, name: &str, with: Value) -> String {
    event(1, name, with).replacen("id: 1\n", &format!("id: {cursor}\n"), 1)
}

/// The feed of a server that is restarted after the second event, and refuses once before it is back.
fn feed(request: &Request, n: usize) -> Reply {
    let placed = json!({"attempt": ATTEMPT, "number": 1, "node": "00000000-0000-0000-0000-0000000000a3"});
    if request.is("GET", "/api/v1/nodes") {
        return Reply::Json(200, json!({"nodes": []}));
    }
    assert!(request.path.starts_with("/api/v1/events?"), "{}", request.path);
    let here = "id: c0\nevent: here\ndata: {}\n\n".to_owned();
    match request.header("last-event-id") {
        None => Reply::Events([here, fed("c1", "submitted", json!({})), fed("c2", "placed", placed)].concat()),
        Some("c2") if n < 3 => Reply::Cut,
        Some("c2") => Reply::Events(
            [
                "event: here\ndata: {}\n\n".to_owned(),
                fed("c3", "cancel_requested", json!({})),
                "id: c4\nevent: end\ndata: {}\n\n".to_owned(),
            ]
            .concat(),
        ),
        Some(other) => panic!("no cursor that was given: {other}"),
    }
}

#[tokio::test]
async fn events_go_on_over_a_restart_with_nothing_missing_and_nothing_twice() {
    let server = Server::start(feed).await;
    let home = Home::new();
    let output = home.run(&server.url, &["events"]).await;
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    insta::assert_snapshot!("events_piped", text(&output.stdout).replace('\t', "<TAB>"));
    let cursors: Vec<Value> = text(&home.run(&server.url, &["events", "--json"]).await.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("an object a line"))
        .map(|line| json!([line["cursor"], line["event"], line["task"], line["node_name"]]))
        .collect();
    let of = |cursor: &str, event: &str| json!([cursor, event, ID, null]);
    assert_eq!(cursors, [of("c1", "submitted"), of("c2", "placed"), of("c3", "cancel_requested")]);
    let rest = home.run(&server.url, &["events", "--since", "c2", "-o", "json"]).await;
    let rest = text(&rest.stdout);
    assert!(rest.lines().count() == 1 && rest.contains("\"cursor\":\"c3\""), "{rest}");
    let asked: Vec<String> = server.requests().into_iter().map(|request| request.path).collect();
    assert!(asked.iter().any(|path| path == "/api/v1/events?follow=false&from=beginning"), "{asked:?}");
}

#[tokio::test]
async fn without_a_terminal_a_signal_cancels_the_task_and_waits_for_its_end() {
    let cancelled = std::sync::Arc::new(AtomicBool::new(false));
    let seen = cancelled.clone();
    let server = Server::start(move |request, _| {
        if request.is("POST", &path("/cancel")) {
            seen.store(true, Ordering::SeqCst);
            return Reply::Json(200, task_json("running", json!({"cancel_requested": true})));
        }
        let over = seen.load(Ordering::SeqCst);
        match request.path.as_str() {
            // Held for a while, then cut: the client comes again, as it does with a server that is restarted.
            path if path.ends_with("/events") && !over => Reply::Events(event(1, "submitted", json!({}))),
            path if path.contains("/logs") && !over => Reply::Events(piece(1, "stdout", "b25lCg==")),
            _ => answer(request, &log_end(), &ended("cancelled", json!(143))),
        }
    })
    .await;
    let home = Home::new();
    for signal in ["-TERM", "-INT"] {
        cancelled.store(false, Ordering::SeqCst);
        let mut child = home.start(&server.url, &["run", "sleep 1000"]);
        // Its first output shows that it follows.
        let mut first = [0; 4];
        tokio::io::AsyncReadExt::read_exact(child.stdout.as_mut().expect("piped"), &mut first).await.expect("a line");
        let pid = child.id().expect("alive").to_string();
        let killed = Command::new("kill").args([signal, &pid]).status().await.expect("kill runs");
        assert!(killed.success());
        let output = finish(child).await;
        assert!(cancelled.load(Ordering::SeqCst), "{signal}");
        assert_eq!(
            (output.status.code(), text(&output.stderr).as_str()),
            (Some(126), "unidesk: cancelled: after 0.8 s on local\n")
        );
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_the_setting_that_led_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let home = Home::new();
    let (list, run) = tokio::join!(home.run(&url, &["list"]), home.run(&url, &["run", "ls", "-o", "json"]));
    let told = text(&list.stderr);
    assert!(told.starts_with(&format!("unidesk: error: can't reach {url}: connection refused (3 tries in ")), "{told}");
    assert!(told.ends_with("  address from UNIDESK_URL\n"), "{told}");
    assert_eq!((list.status.code(), list.stdout.len()), (Some(5), 0));
    let problem: Value = serde_json::from_slice(&run.stderr).expect("a problem object");
    assert_eq!((run.status.code(), &problem["type"], run.stdout.len()), (Some(125), &json!("about:blank"), 0));
}

#[tokio::test]
async fn a_refused_task_names_the_flag() {
    let server = Server::start(|request, _| {
        let body: Value = serde_json::from_str(&request.body).expect("JSON");
        let faults = domain::spec::parse_spec(&body).expect_err("a bad spec");
        Reply::Json(422, serde_json::to_value(api_types::Problem::invalid_task(faults)).expect("JSON"))
    })
    .await;
    let output = Home::new().run(&server.url, &["run", "ls", "--memory", "16 gigs", "--timeout", "soon"]).await;
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!("run_refused", text(&output.stderr));
    let output = Home::new().run(&server.url, &["run", "ls", "--memroy", "1"]).await;
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("a similar argument exists: '--memory'"));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_task_is_found_by_the_end_of_its_id_and_as_the_last_one() {
    let server = Server::start(|request, _| {
        if request.is("GET", "/api/v1/tasks") {
            let found = if request.path.contains("id_suffix=41c7a93d") {
                vec![task_json("running", json!({}))]
            } else {
                vec![]
            };
            return Reply::Json(200, json!({"tasks": found, "found": 1, "live": 1, "next_cursor": null}));
        }
        answer(request, &log_end(), &ended("succeeded", json!(0)))
    })
    .await;
    let home = Home::new();
    let missing = home.run(&server.url, &["status", "last"]).await;
    assert!(missing.status.code() == Some(3) && text(&missing.stderr).contains("no task was submitted"));
    let detached = home.run(&server.url, &["run", "--detach", "ls"]).await;
    assert_eq!((text(&detached.stdout), detached.status.code()), (format!("{ID}\n"), Some(0)));
    for typed in ["last", "41c7a93d", "41C7A93D", ID] {
        let output = home.run(&server.url, &["status", typed, "-o", "json"]).await;
        let task: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{typed}: {}", text(&output.stderr)));
        assert_eq!(task["id"], ID);
    }
    let unknown = home.run(&server.url, &["status", "ffffffff"]).await;
    assert_eq!(unknown.status.code(), Some(3));
}

#[tokio::test]
async fn a_reader_that_has_gone_ends_it_quietly() {
    let many: Vec<Value> = (0..200).map(|_| task_json("running", json!({"name": "n".repeat(500)}))).collect();
    let server = Server::start(move |request, _| {
        if request.is("GET", "/api/v1/tasks") {
            return Reply::Json(200, json!({"tasks": many, "found": 200, "live": 200, "next_cursor": null}));
        }
        match request.path.as_str() {
            path if path.ends_with("/events") => Reply::Held(event(1, "submitted", json!({}))),
            path if path.contains("/logs") => Reply::Held(piece(1, "stdout", "b25lCg==")),
            _ => answer(request, "", &Value::Null),
        }
    })
    .await;
    let home = Home::new();
    for (words, code) in [(&["list", "--limit", "200"][..], 0), (&["run", "ls"][..], 141)] {
        let mut child = home.start(&server.url, words);
        drop(child.stdout.take());
        let output = finish(child).await;
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(code), ""), "{words:?}");
    }
}

#[tokio::test]
async fn a_login_is_kept_and_used_and_the_environment_wins_over_it() {
    let server = Server::start(|request, _| {
        if request.header("authorization") == Some("Bearer good") {
            Reply::Json(200, json!({"kind": "api_key", "name": "ana", "role": "member", "project": "vision", "server_version": "1.4.0"}))
        } else {
            Reply::Json(401, serde_json::to_value(api_types::Problem::new("not-authenticated", "No such key.")).expect("JSON"))
        }
    })
    .await;
    let home = Home::new();
    let key = home.0.path().join("key");
    std::fs::write(&key, "good\n").expect("written");
    let key = key.to_str().expect("UTF-8");
    let login = finish(home.command(&["login", &server.url, "--token-file", key]).spawn().expect("it starts")).await;
    assert_eq!(login.status.code(), Some(0), "{}", text(&login.stderr));
    let who = finish(home.command(&["whoami"]).spawn().expect("it starts")).await;
    let told = text(&who.stdout);
    assert_eq!(
        told.replace(&server.url, "URL"),
        "ana (member, project vision)\nserver     URL version 1.4.0, address from ~/.config/unidesk/credentials\n\
         token      from ~/.config/unidesk/credentials\n"
    );
    let bad = finish(home.command(&["whoami"]).env("UNIDESK_TOKEN", "bad").spawn().expect("it starts")).await;
    assert!(
        bad.status.code() == Some(4) && text(&bad.stderr).contains("token from UNIDESK_TOKEN"),
        "{}",
        text(&bad.stderr)
    );
}

#[tokio::test]
async fn a_new_token_is_alone_on_stdout() {
    let server = Server::start(|_, _| {
        Reply::Json(201, json!({"id": ID, "node_id": ID, "name": "lab-8", "token": "ud_node_Hk3v9"}))
    })
    .await;
    let output = Home::new().run(&server.url, &["node-token", "create", "--name", "lab-8"]).await;
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("ud_node_Hk3v9\n", ""));
}

#[tokio::test]
async fn a_shell_completes_live_ids_and_is_never_held_up() {
    let server = Server::start(|_, _| {
        Reply::Json(
            200,
            json!({"tasks": [task_json("running", json!({}))], "found": 1, "live": 1, "next_cursor": null}),
        )
    })
    .await;
    let home = Home::new();
    let complete = async |url: &str| {
        let mut command = home.command(&["--", "unidesk", "status", "41"]);
        command
            .env("COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", "2")
            .env("_CLAP_COMPLETE_COMP_TYPE", "9")
            .env("UNIDESK_URL", url);
        finish(command.spawn().expect("it starts")).await
    };
    assert!(text(&complete(&server.url).await.stdout).contains("41c7a93d"));
    // Nobody answers there.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let began = std::time::Instant::now();
    let output = complete(&format!("http://{}", silent.local_addr().expect("bound"))).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(text(&output.stderr), "");
}

#[tokio::test]
async fn help_is_as_printed() {
    let home = Home::new();
    for (name, words) in [
        ("help", &["--help"][..]),
        ("help_exit", &["help", "exit"]),
        ("help_run", &["help", "run"]),
        ("help_events", &["help", "events"]),
        ("help_artifact", &["help", "artifact"]),
        ("help_artifact_put", &["help", "artifact", "put"]),
        ("help_artifact_get", &["help", "artifact", "get"]),
    ] {
        let output = finish(home.command(words).spawn().expect("it starts")).await;
        assert_eq!(output.status.code(), Some(0));
        insta::assert_snapshot!(name, text(&output.stdout));
    }
}

#[tokio::test]
async fn a_submission_whose_answer_was_lost_makes_one_task() {
    let server =
        Server::start(
            |request, n| if n == 0 { Reply::Cut } else { answer(request, &log_end(), &ended("succeeded", json!(0))) },
        )
        .await;
    let output = Home::new().run(&server.url, &["run", "--detach", "ls"]).await;
    assert_eq!((text(&output.stdout), text(&output.stderr)), (format!("{ID}\n"), String::new()));
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].header("idempotency-key"), requests[1].header("idempotency-key"));
}

#[tokio::test]
async fn a_log_that_was_cut_is_not_taken_for_a_whole_one() {
    let server = Server::start(|request, _| {
        if request.is("GET", &path("/logs")) {
            return Reply::Raw(200, vec![("content-length", "100".into())], vec![0, 255, 10]);
        }
        answer(request, "", &ended("succeeded", json!(0)))
    })
    .await;
    let output = Home::new().run(&server.url, &["logs", ID]).await;
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(5), &[0u8, 255, 10][..]));
    assert!(text(&output.stderr).contains("the log was cut after 3 bytes"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_the_node() {
    let server = Server::start(|request, _| match request.path.as_str() {
        path if path.ends_with("/events") => Reply::Held(event(1, "submitted", json!({}))),
        path if path.contains("/logs") => Reply::Held(piece(1, "stdout", "b25lCg==")),
        path if path.ends_with("/cancel") => Reply::Json(200, task_json("running", json!({"cancel_requested": true}))),
        _ => answer(request, "", &Value::Null),
    })
    .await;
    let mut child = Home::new().start(&server.url, &["run", "sleep 1000"]);
    let mut first = [0; 4];
    tokio::io::AsyncReadExt::read_exact(child.stdout.as_mut().expect("piped"), &mut first).await.expect("a line");
    signal(&child, "-TERM").await;
    until(|| server.requests().iter().any(|request| request.is("POST", &path("/cancel")))).await;
    signal(&child, "-TERM").await;
    let output = finish(child).await;
    assert_eq!(output.status.code(), Some(126));
    assert!(text(&output.stderr).contains("its node has not confirmed the end yet"), "{}", text(&output.stderr));
}

async fn signal(child: &Child, signal: &str) {
    let pid = child.id().expect("alive").to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().await.expect("kill runs").success());
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it never came true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A person at a terminal: what the program writes is collected, and keys can be pressed.
struct Terminal {
    child: Child,
    keys: std::fs::File,
    screen: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(home: &Home, url: &str, words: &[&str]) -> Self {
        let pty = nix::pty::openpty(None, None).expect("a terminal");
        let side = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        let mut command = home.command(words);
        command.env("UNIDESK_URL", url).env("UNIDESK_TOKEN", "x").stdin(side()).stdout(side()).stderr(side());
        let child = command.spawn().expect("it starts");
        let keys = std::fs::File::from(pty.master);
        let mut reader = keys.try_clone().expect("a descriptor");
        let screen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let collected = screen.clone();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // A terminal whose programs have all ended reads as an error.
            while let Ok(n @ 1..) = std::io::Read::read(&mut reader, &mut chunk) {
                collected.lock().expect("unpoisoned").extend_from_slice(&chunk[..n]);
            }
        });
        Self { child, keys, screen }
    }
    fn shows(&self) -> String {
        text(&self.screen.lock().expect("unpoisoned")).replace('\r', "")
    }
    async fn until_shows(&self, what: &str) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !self.shows().contains(what) {
            assert!(std::time::Instant::now() < deadline, "{what:?} is not in {:?}", self.shows());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    fn press(&mut self, key: u8) {
        std::io::Write::write_all(&mut self.keys, &[key]).expect("the terminal takes it");
    }
    async fn end(&mut self) -> Option<i32> {
        tokio::time::timeout(Duration::from_secs(30), self.child.wait())
            .await
            .expect("within 30 s")
            .expect("an end")
            .code()
    }
}

#[tokio::test]
async fn on_a_terminal_phases_come_before_the_log_and_the_result_after_it() {
    let log = [piece(1, "stdout", "bm8gbmV3bGluZQ=="), log_end()].concat();
    let server = Server::start(move |request, _| answer(request, &log, &ended("succeeded", json!(0)))).await;
    let mut terminal = Terminal::start(&Home::new(), &server.url, &["run", "ls", "--color", "never"]);
    terminal.until_shows("succeeded").await;
    assert_eq!(terminal.end().await, Some(0));
    let shown = terminal.shows();
    let last = |line: &str| line.rsplit("\x1b[2K").next().unwrap_or_default().to_owned();
    let lines: Vec<String> = shown.lines().map(last).collect();
    assert_eq!(
        lines,
        [
            "✓ submitted  task 41c7a93d",
            "✓ placed     on local after 2.0 s; code, env and image are there (prepared in 1.0 s)",
            "no newline",
            "✓ succeeded  in 0.8 s on local, exit 0",
        ],
        "{shown:?}"
    );
}

#[tokio::test]
async fn ctrl_c_on_a_terminal_asks_and_the_answer_counts() {
    let server = Server::start(|request, _| match request.path.as_str() {
        path if path.ends_with("/events") => Reply::Held(event(1, "submitted", json!({}))),
        path if path.contains("/logs") => Reply::Held(piece(1, "stdout", "b25lCg==")),
        path if path.ends_with("/cancel") => Reply::Json(200, task_json("running", json!({"cancel_requested": true}))),
        _ => answer(request, "", &Value::Null),
    })
    .await;
    let cancelled = || server.requests().iter().any(|request| request.is("POST", &path("/cancel")));
    let home = Home::new();
    let mut terminal = Terminal::start(&home, &server.url, &["run", "sleep 1000"]);
    terminal.until_shows("one").await;
    signal(&terminal.child, "-INT").await;
    terminal.until_shows("c cancel, d detach, Enter go on").await;
    terminal.press(b'd');
    assert_eq!(terminal.end().await, Some(0));
    assert!(!cancelled());
    // The terminal may show it a moment after the end.
    terminal.until_shows("the task goes on: unidesk logs 41c7a93d --follow").await;

    let mut terminal = Terminal::start(&home, &server.url, &["run", "sleep 1000"]);
    terminal.until_shows("one").await;
    signal(&terminal.child, "-INT").await;
    terminal.until_shows("Enter go on").await;
    signal(&terminal.child, "-INT").await;
    until(cancelled).await;
    terminal.until_shows("cancelling").await;
    signal(&terminal.child, "-INT").await;
    assert_eq!(terminal.end().await, Some(126));
}

#[tokio::test]
async fn an_audit_exits_by_what_it_found() {
    let audit = |clean: bool| json!({"clean": clean, "invariants": [{"id": "x", "says": "It holds.", "state": if clean { "holds" } else { "broken" }}]});
    let home = Home::new();
    for (clean, code) in [(true, 0), (false, 1)] {
        let server = Server::start(move |_, _| Reply::Json(200, audit(clean))).await;
        let told = home.run(&server.url, &["audit", "-o", "json"]).await;
        assert_eq!(told.status.code(), Some(code));
        assert_eq!(serde_json::from_slice::<Value>(&told.stdout).expect("JSON")["clean"], json!(clean));
    }
    let told = home.run("http://127.0.0.1:9", &["audit"]).await;
    assert_eq!(told.status.code(), Some(5), "nobody answers there");
}

#[tokio::test]
async fn an_empty_setting_is_none_and_one_that_is_missing_is_asked_for_by_its_names() {
    let home = Home::new();
    let services: [&[&str]; 3] = [&["server", "scheduler"], &["server", "api-gateway"], &["migrate"]];
    for words in services {
        for empty in [true, false] {
            let mut command = home.command(words);
            if empty {
                command.env("UNIDESK_DATABASE_URL", "").env("UNIDESK_LISTEN", "").env("UNIDESK_HEALTH_LISTEN", "");
            }
            let output = finish(command.spawn().expect("it starts")).await;
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
            assert!(said.contains("--database-url is also read from UNIDESK_DATABASE_URL"), "{words:?}: {said}");
        }
    }
    let mut command = home.command(&["server", "scheduler"]);
    let output = finish(command.env("UNIDESK_DATABASE_URL", "localhost").spawn().expect("it starts")).await;
    let said = text(&output.stderr);
    assert!(said.contains("postgres://user:password@host/database"), "{said}");
    let mut command = home.command(&["provider", "--token-file", "/dev/null"]);
    let output = finish(command.env("UNIDESK_URL", "").spawn().expect("it starts")).await;
    let said = text(&output.stderr);
    assert!(said.contains("--server URL, or set UNIDESK_URL"), "{said}");
}

#[tokio::test]
async fn a_secret_is_taken_from_the_file_that_is_named_and_what_is_wrong_with_that_is_said() {
    let home = Home::new();
    let (file, empty) = (home.path().join("url"), home.path().join("empty"));
    // That it is no address is seen without a database.
    std::fs::write(&file, "no-address-of-a-database\n").expect("a file");
    std::fs::write(&empty, "\n").expect("a file");
    let migrate = async |variables: &[(&str, &str)]| {
        let child = home.command(&["migrate"]).envs(variables.iter().copied()).spawn().expect("it starts");
        let output = finish(child).await;
        (output.status.code(), text(&output.stderr))
    };
    let path = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    const FILE: &str = "UNIDESK_DATABASE_URL_FILE";

    let (code, said) = migrate(&[(FILE, &path(&file))]).await;
    assert!(code == Some(1) && said.contains("postgres://user:password@host/database"), "{code:?}: {said}");
    let (code, said) = migrate(&[(FILE, &path(&empty))]).await;
    assert!(code == Some(2) && said.contains("the file is empty"), "{code:?}: {said}");
    let (code, said) = migrate(&[(FILE, "/nowhere")]).await;
    assert!(code == Some(2) && said.contains("UNIDESK_DATABASE_URL_FILE=/nowhere: No such file"), "{code:?}: {said}");
    let (code, said) = migrate(&[(FILE, &path(&file)), ("UNIDESK_DATABASE_URL", "postgres://db/x")]).await;
    assert!(code == Some(2) && said.contains("leave one out"), "{code:?}: {said}");
}

#[tokio::test]
async fn health_is_the_word_of_the_service_and_an_exit_code() {
    let home = Home::new();
    let health = async |words: &[&str]| {
        let output = finish(home.command(words).spawn().expect("it starts")).await;
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let server = Server::start(|request, before| {
        assert!(request.is("GET", "/readyz"), "{request:?}");
        let (status, body) = if before == 0 { (200, "ready\n") } else { (503, "not ready: the database is away\n") };
        Reply::Raw(status, Vec::new(), body.into())
    })
    .await;
    let address = server.url.replace("http://", "");
    let (code, said, _) = health(&["health", &address]).await;
    assert_eq!((code, said.as_str()), (Some(0), "ready\n"));
    let (code, _, said) = health(&["health", &address]).await;
    assert!(code == Some(1) && said.contains("not ready: the database is away"), "{said}");
    let (code, _, said) = health(&["health", "127.0.0.1:1"]).await;
    assert!(code == Some(1) && said.contains("127.0.0.1:1: Connection refused"), "{said}");
    let (code, _, said) = health(&["health", "--agent", "--data-dir", "/nowhere"]).await;
    assert!(code == Some(1) && said.contains("no agent has run on /nowhere"), "{said}");
}

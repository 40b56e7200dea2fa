//! `unidesk up` as people use it: started, stopped, killed, started again.

use crate::{
    programs::{self, Program, is_alive, until_gone},
    story,
    task::Body,
    until::{until, until_true},
    world::{self, Home, Repositories, SOON, log_until, task_until},
};
use api_types::{log::LogQuery, task::Task};
use client::Client;
use domain::{ids::TaskId, outcome::FailureKind, task::TaskState};
use futures::TryStreamExt;
use nix::sys::signal::Signal;
use std::{fs, path::Path, time::Duration};
use tokio::time::Instant;

/// A start that reads what an earlier one left.
const START_WITHIN: Duration = Duration::from_secs(10);
/// Five for the work, the rest for services and database.
const STOP_WITHIN: Duration = Duration::from_secs(10);

struct Up {
    program: Program,
    client: Client,
    token: String,
}

impl Up {
    fn command(dir: &Path) -> std::process::Command {
        let mut command = programs::command(&["up", "--listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(dir);
        command
    }

    async fn start(dir: &Path) -> Self {
        let program = Program::start(Self::command(dir)).await;
        let token = fs::read_to_string(dir.join("admin.token")).expect("the first key").trim().to_owned();
        let client = Client::new(program.url(), &token).expect("a client");
        Self { program, client, token }
    }

    /// As [`Up::start`], but it must not take long.
    async fn start_again(dir: &Path) -> Self {
        let began = Instant::now();
        let up = Self::start(dir).await;
        println!("ready again after {:?}", began.elapsed());
        assert!(began.elapsed() < START_WITHIN, "{:?}", began.elapsed());
        up
    }

    async fn submit(&self, body: &Body) -> TaskId {
        self.client.submit(&body.0, None).await.expect("it is taken").id
    }

    async fn ended(&self, id: TaskId) -> Task {
        task_until(&self.client, id, "it ends", |task| task.state.is_terminal()).await
    }

    async fn interrupted(mut self) {
        let began = Instant::now();
        self.program.signal(Signal::SIGINT);
        assert!(self.program.ended(STOP_WITHIN).await.success(), "{}", self.program.said());
        println!("stopped after {:?}", began.elapsed());
    }

    /// PostgreSQL and the supervisors of processes with their starter: what `up` has started and must end or leave.
    fn children(&self) -> Vec<(i32, i32, String)> {
        let all = fs::read_dir("/proc").expect("processes").flatten();
        let stats = all.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
        let parsed = stats.filter_map(|stat| {
            let (head, rest) = stat.rsplit_once(')')?;
            let (pid, name) = head.split_once(" (")?;
            let mut fields = rest.split_whitespace().skip(1).map(|field| field.parse::<i32>().ok());
            Some((pid.parse::<i32>().ok()?, fields.next()??, fields.next()??, name.to_owned()))
        });
        let processes: Vec<_> = parsed.collect();
        let is_own = |of: i32| of == self.program.pid();
        let starters: Vec<i32> = processes
            .iter()
            .filter(|(_, parent, _, name)| is_own(*parent) && name == "unidesk-starter")
            .map(|(pid, ..)| *pid)
            .collect();
        let found = processes.into_iter().filter(|(_, parent, ..)| is_own(*parent) || starters.contains(parent));
        found.map(|(pid, _, group, name)| (pid, group, name)).collect()
    }
}

async fn log_of_attempt(client: &Client, id: TaskId, attempt: u32) -> String {
    let query = LogQuery { attempt: Some(attempt), ..LogQuery::default() };
    let pieces: Vec<_> = client.log_bytes(id, &query).await.expect("a log").try_collect().await.expect("a whole log");
    String::from_utf8(pieces.concat()).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_is_stopped_with_the_platform_runs_again_at_the_next_start() {
    let home = Home::create();
    // Building it is no part of its start.
    programs::unidesk();
    let began = Instant::now();
    let up = Up::start(home.path()).await;
    println!("first ready after {:?}", began.elapsed());
    let line = "if [ $UNIDESK_ATTEMPT = 1 ]; then trap 'echo told to stop; exit 1' TERM; echo up; sleep 600 & wait; else echo again; fi";
    let polite = up.submit(&Body::process(line)).await;
    let stubborn = up
        .submit(&Body::process("trap '' TERM; echo up; [ $UNIDESK_ATTEMPT = 2 ] || while :; do sleep 0.2; done"))
        .await;
    for id in [polite, stubborn] {
        log_until(&up.client, id, "up\n").await;
    }

    // Ctrl-C in a terminal goes to the foreground's process group: none of these may be in it.
    let children = up.children();
    assert!(children.iter().any(|(_, _, name)| name == "postgres"), "{children:?}");
    assert!(children.iter().any(|(_, _, name)| name.starts_with("unidesk-shim")), "{children:?}");
    let own_group = up.program.pid();
    assert!(children.iter().all(|(_, group, _)| *group != own_group), "{children:?} in {own_group}");

    // A second one on the same directory says who is there.
    let mut second = Program::spawn(Up::command(home.path()));
    assert!(!second.ended(SOON).await.success());
    story::assert_story("second_up", &second.said().replace(&format!("process {own_group}"), "process [pid]"));
    // On another directory it is another platform.
    let other_home = Home::create();
    let other = Up::start(other_home.path()).await;
    assert_ne!(other.token, up.token);
    assert!(other.client.tasks(&Default::default()).await.expect("tasks").tasks.is_empty());
    let refused = Client::new(up.program.url(), &other.token).expect("a client").who_am_i().await;
    assert!(refused.is_err(), "one platform's key is another's");
    other.interrupted().await;

    let token = up.token.clone();
    up.interrupted().await;
    for (pid, _, name) in children {
        assert!(!is_alive(pid), "{name} outlived a stop");
    }
    let up = Up::start_again(home.path()).await;
    assert_eq!(up.token, token, "the key holds over a restart");
    for id in [polite, stubborn] {
        let task = up.ended(id).await;
        assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 2), "{task:#?}");
        let first = &task.attempts.as_ref().expect("attempts")[0];
        assert_eq!(first.failure, Some(FailureKind::NodeError), "{first:?}");
    }
    assert_eq!(log_of_attempt(&up.client, polite, 1).await, "up\ntold to stop\n");
    assert_eq!(log_of_attempt(&up.client, polite, 2).await, "again\n");
    let why = up.client.why(polite).await.expect("why");
    let evidence: Vec<String> =
        why.ended.expect("it ended").evidence.into_iter().map(|evidence| evidence.what).collect();
    story::assert_story("stopped_with_the_platform", &format!("{}\n{}", why.summary, evidence.join("\n")));
    up.interrupted().await;
}

/// Says that it began, and a line five times a second.
const CHATTER: &str = "echo begin; i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.2; done; exit 4";

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_while_the_platform_is_killed_and_is_found_again() {
    let home = Home::create();
    let repositories = Repositories::start().await;
    let mut up = Up::start(home.path()).await;
    let process = up.submit(&Body::process(CHATTER)).await;
    let container = up.submit(&Body::container(&repositories, CHATTER)).await;
    for id in [process, container] {
        log_until(&up.client, id, "line 2\n").await;
    }
    let waiting = up.submit(&Body::process("true").with("requirements.cpu_cores", 4_000)).await;
    up.program.kill().await;
    let mut up = Up::start_again(home.path()).await;
    // Once more, before it is all caught up.
    up.program.kill().await;
    let up = Up::start_again(home.path()).await;

    let wanted: String = "begin\n".to_owned() + &(0..60).map(|n| format!("line {n}\n")).collect::<String>();
    for id in [container, process] {
        let task = up.ended(id).await;
        println!("{} ended in attempt {}: {:?}", task.name, task.attempt, task.exit_code);
        assert_eq!((task.attempt, task.exit_code), (1, Some(4)), "{task:#?}");
        assert_eq!(String::from_utf8(world::log(&up.client, id, None).await).expect("text"), wanted);
    }
    assert_eq!(up.client.task(waiting).await.expect("a task").state, TaskState::Pending);
    until("nothing is reserved", SOON, async || {
        up.client.nodes().await.expect("nodes").iter().all(|node| node.tasks == 0).then_some(())
    })
    .await;
    until_true("the attempts' directories are gone", SOON, || home.attempts().is_empty()).await;
    assert_eq!(home.containers(), Vec::<String>::new());
    let children = up.children();
    up.interrupted().await;
    for (pid, ..) in children {
        until_gone(pid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_interrupt_leaves_alone_what_did_not_heed_the_first() {
    let home = Home::create();
    let mut up = Up::start(home.path()).await;
    let line =
        "trap '' TERM; echo begin; i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.2; done; exit 4";
    let deaf = up.submit(&Body::process(line)).await;
    // This one is on its way out when nobody listens any more: that it failed is not its own doing.
    let heeds = up
        .submit(&Body::process(
            "[ $UNIDESK_ATTEMPT = 2 ] && exit 0; trap 'echo bye; sleep 1; exit 1' TERM; echo up; sleep 600 & wait",
        ))
        .await;
    log_until(&up.client, deaf, "line 2\n").await;
    log_until(&up.client, heeds, "up\n").await;
    up.program.signal(Signal::SIGINT);
    log_until(&up.client, heeds, "bye\n").await;
    up.program.signal(Signal::SIGINT);
    assert_eq!(up.program.ended(STOP_WITHIN).await.code(), Some(130));

    let up = Up::start_again(home.path()).await;
    let task = up.ended(heeds).await;
    assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 2), "{task:#?}");
    let task = up.ended(deaf).await;
    assert_eq!((task.attempt, task.exit_code), (1, Some(4)), "{task:#?}");
    let wanted: String = "begin\n".to_owned() + &(0..60).map(|n| format!("line {n}\n")).collect::<String>();
    assert_eq!(String::from_utf8(world::log(&up.client, deaf, None).await).expect("text"), wanted);
    up.interrupted().await;
}

/// No secret in what is logged, printed, or shown.
#[tokio::test(flavor = "multi_thread")]
async fn no_log_holds_a_token() {
    let home = Home::create();
    let repositories = Repositories::start().await;
    let mut command = Up::command(home.path());
    command.env("UNIDESK_LOG", "debug");
    let program = Program::start(command).await;
    let admin = fs::read_to_string(home.path().join("admin.token")).expect("a key").trim().to_owned();
    let node = fs::read_to_string(home.path().join("nodes/local/token")).expect("a token").trim().to_owned();
    let client = Client::new(program.url(), &admin).expect("a client");
    let jwt = client.exchange_token(&admin).await.expect("a token").access_token;
    let _ = Client::new(program.url(), format!("{admin}x")).expect("a client").who_am_i().await;
    let _ = Client::new(program.url(), &jwt).expect("a client").who_am_i().await;
    let id = client.submit(&Body::container(&repositories, "env; exit 1").0, None).await.expect("a task").id;
    let task = task_until(&client, id, "it ends", |task| task.state.is_terminal()).await;
    let mut seen = program.said();
    seen += &String::from_utf8_lossy(&world::log(&client, id, Some("stdout,stderr,build,system")).await);
    seen += &format!("{task:?} {:?}", client.why(id).await.expect("why"));
    assert!(seen.len() > 2_000, "nothing was logged, so nothing was tested:\n{seen}");

    let secrets = [("the admin's key", &admin), ("the node's token", &node), ("a short-lived token", &jwt)];
    let mut up = program;
    up.signal(Signal::SIGINT);
    up.ended(SOON).await;
    seen += &up.said();
    // Where they may lie: with their owners only.
    let kept = ["admin.token", "nodes/local/token"].map(|name| home.path().join(name));
    let files = files_below(home.path());
    assert!(files.len() > 100, "PostgreSQL's own files are among them");
    for (what, secret) in secrets {
        // Also without its public part, by which it is looked up; of a JWT, that is its signature.
        let end = if secret.starts_with("ud_") { '_' } else { '.' };
        let private = secret.rsplit(end).next().expect("a last part");
        assert!(private.len() >= 20, "{what} has no private part");
        assert!(!seen.contains(private), "{what} was shown");
        for file in files.iter().filter(|file| !kept.contains(file)) {
            let bytes = fs::read(file).unwrap_or_default();
            assert!(!contains(&bytes, private.as_bytes()), "{what} lies in {}", file.display());
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    let first = part[0];
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        rest = &rest[at..];
        if rest.starts_with(part) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_can_watch_that_no_invariant_is_broken() {
    let home = Home::create();
    let up = Up::start(&home.path().join("data")).await;
    let url = format!("{}/metrics", up.program.url());
    let sound = "unidesk_audit_violations{invariant=\"one-live-attempt\"} 0";
    until("the first audit is counted", SOON, async || {
        let answer = reqwest::get(&url).await.expect("an answer");
        assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        let text = answer.text().await.expect("text");
        text.lines().any(|line| line == sound).then_some(())
    })
    .await;
    up.interrupted().await;
}

/// The drill: what an administrator does who has lost the database's disk.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_lost_and_comes_back_and_what_runs_goes_on() {
    let home = Home::create();
    let up = Up::start(home.path()).await;
    let backup = |arguments: &[&str]| {
        let output = programs::command(&["backup", "--data-dir"]).arg(home.path()).args(arguments).output();
        let output = output.expect("it runs");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), said(&output.stdout), said(&output.stderr))
    };
    let ended = up.submit(&Body::process("echo done")).await;
    assert_eq!(up.ended(ended).await.state, TaskState::Succeeded);
    let go = home.path().join("go");
    let line = format!("echo begin; while [ ! -e {} ]; do sleep 0.1; done; echo end", go.display());
    let runs = up.submit(&Body::process(&line)).await;
    let waits = up.submit(&Body::process(&line)).await;
    log_until(&up.client, runs, "begin\n").await;

    let (good, name, said) = backup(&["now"]);
    assert!(good, "{said}");
    let (good, _, said) = backup(&["restore", "latest"]);
    assert!(!good && said.contains("another `unidesk up`"), "{said}");
    let name = name.trim();
    let (good, _, said) = backup(&["verify", name]);
    assert!(good, "{said}");
    let (_, listed, _) = backup(&["list"]);
    assert!(listed.contains(name) && listed.contains("audit clean, 3 tasks"), "{listed}");
    let forgotten = up.submit(&Body::process("echo after the backup")).await;
    assert_eq!(up.ended(forgotten).await.state, TaskState::Succeeded);

    let children = up.children();
    let mut program = up.program;
    program.kill().await;
    for (pid, _, name) in children {
        if name == "postgres" {
            until_gone(pid).await;
        }
    }
    fs::remove_dir_all(home.path().join("postgres")).expect("the database is lost");
    let (good, restored, said) = backup(&["restore", name]);
    assert!(good && restored.contains("3 tasks") && restored.contains("unidesk up"), "{restored}{said}");

    let up = Up::start(home.path()).await;
    fs::write(&go, "").expect("written");
    for id in [runs, waits] {
        let task = up.ended(id).await;
        assert_eq!((task.state, task.attempt), (TaskState::Succeeded, 1), "{task:#?}");
        assert!(String::from_utf8(world::log(&up.client, id, None).await).expect("text").ends_with("end\n"));
    }
    assert_eq!(up.client.task(ended).await.expect("it is back").state, TaskState::Succeeded);
    assert!(up.client.task(forgotten).await.is_err(), "what came after the backup is lost");
    let audit = up.client.audit().await.expect("audited");
    assert!(audit.clean, "{audit:#?}");
    up.interrupted().await;
}

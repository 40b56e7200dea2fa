//! What tasks read and leave, as people see it: `run --input --output`, `get`, against a real `unidesk up`.

use crate::{
    artifacts::{World, finish, text},
    until::until,
    world::{Repositories, SOON},
};
use serde_json::Value;
use std::{fs, process::Output};

impl World {
    async fn tell(&self, words: &[&str]) -> Output {
        finish(self.unidesk(words).spawn().expect("it starts")).await
    }

    /// What it prints when all is well.
    async fn say(&self, words: &[&str]) -> String {
        let output = self.tell(words).await;
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&self.say(&["status", "last", "-o", "json"]).await).expect("JSON")
    }

    /// A data set of two files, put in once.
    async fn with_dataset() -> Self {
        let world = Self::start().await;
        let data = world.work().join("data");
        fs::create_dir_all(data.join("deep")).expect("made");
        fs::write(data.join("a.txt"), "one\n").expect("written");
        fs::write(data.join("deep/b é.txt"), "two\n").expect("written");
        world.say(&["artifact", "put", "data", "--name", "dataset"]).await;
        world
    }
}

const PROCESS: [&str; 4] = ["--executor", "process", "--cpus", "0.1"];

#[tokio::test(flavor = "multi_thread")]
async fn a_process_reads_what_was_put_in_and_what_it_leaves_comes_out() {
    let world = World::with_dataset().await;
    let line = "cat data/a.txt 'data/deep/b é.txt' && mkdir -p out/logs && cat data/*.txt >out/model.bin && echo l >out/logs/x.log && \
                (echo no >data/a.txt || true) 2>/dev/null; (echo no >data/new || true) 2>/dev/null; ls data";
    let run =
        [
            &[
                "run",
                line,
                "--input",
                "dataset:data",
                "--output",
                "out/model.bin:model",
                "--output",
                "out/**/*.log:logs",
            ][..],
            &PROCESS,
        ]
        .concat();
    let first = world.tell(&run).await;
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert_eq!(text(&first.stdout), "one\ntwo\na.txt\ndeep\n", "and nothing of it could be changed");

    let paths = world.say(&["get", "last", "--to", "got"]).await;
    assert_eq!(paths, "got/model.bin\ngot/logs\n");
    assert_eq!(fs::read(world.work().join("got/model.bin")).expect("it came out"), b"one\n");
    assert_eq!(fs::read(world.work().join("got/logs/logs/x.log")).expect("it came out"), b"l\n");

    let task = world.status().await;
    let named = |index: usize| (task["artifacts"][index]["name"].clone(), task["artifacts"][index]["version"].clone());
    assert_eq!((named(0), named(1)), (("model".into(), 1.into()), ("logs".into(), 1.into())), "{task}");
    assert_eq!(task["spec"]["inputs"][0]["pinned"]["version"], 1, "what exactly it read");
    // The same again finds its input on the node, and its outputs are the next versions.
    world.say(&run).await;
    let again = world.status().await;
    let input = &again["attempts"][0]["provenance"]["inputs"][0];
    assert_eq!((&input["artifact"], &input["cached"]), (&"dataset@1".into(), &true.into()), "{again}");
    assert_eq!(again["artifacts"][0]["version"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_reads_what_was_put_in_and_what_it_leaves_comes_out() {
    let world = World::with_dataset().await;
    fs::write(world.work().join("weights"), "w").expect("written");
    world.say(&["artifact", "put", "weights", "--name", "weights"]).await;
    let of = Repositories::start().await;
    let (code, env) = (of.code.url(), of.environment.url());
    let source = [
        "--code-repo-url",
        code,
        "--code-commit-id",
        &of.code_commit,
        "--env-repo-url",
        env,
        "--env-commit-id",
        &of.environment_commit,
        "--dockerfile-path",
        "Dockerfile",
        "--cpus",
        "0.1",
        "--memory",
        "64MiB",
    ];
    let files = [
        "--input",
        "dataset:/data/set",
        "--input",
        "weights:start/w.pt",
        "--output",
        "out:result",
        "--output",
        "/tmp/report.txt:report",
    ];
    let line = "cat /data/set/a.txt start/w.pt greeting.txt && mkdir out && cp /data/set/a.txt out/ && ln -s /nowhere out/link && echo done >/tmp/report.txt";
    let run = [&["run", line][..], &files, &source].concat();
    let first = world.tell(&run).await;
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert_eq!(text(&first.stdout), "one\nwhello from the commit\n");
    world.say(&["get", "last", "--to", "got"]).await;
    assert_eq!(fs::read(world.work().join("got/result/a.txt")).expect("it came out"), b"one\n");
    assert!(!world.work().join("got/result/link").is_symlink(), "what leads out is left out");
    assert_eq!(fs::read(world.work().join("got/report.txt")).expect("it came out"), b"done\n");
    let log = world.say(&["logs", "last", "--stream", "system"]).await;
    assert!(log.contains("link"), "and that is told: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_means_what_it_meant_when_the_task_was_submitted() {
    let world = World::with_dataset().await;
    // It waits for a label that no node has yet.
    world.say(&["node", "drain", "local"]).await;
    let run = [&["run", "--detach", "cat data/a.txt", "--input", "dataset:data"][..], &PROCESS].concat();
    let id = world.say(&run).await.trim().to_owned();
    fs::write(world.work().join("data/a.txt"), "newer\n").expect("written");
    world.say(&["artifact", "put", "data", "--name", "dataset"]).await;
    // What a task that waits reads is not removed.
    let refused = world.tell(&["artifact", "rm", "dataset@1", "--yes"]).await;
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains(&id[id.len() - 8..]), "{}", text(&refused.stderr));
    world.say(&["node", "resume", "local"]).await;
    assert_eq!(world.tell(&["wait", &id]).await.status.code(), Some(0));
    assert_eq!(world.say(&["logs", &id]).await, "one\n");
    world.say(&["artifact", "rm", "dataset@1", "--yes"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_where_it_stands() {
    let world = World::with_dataset().await;
    let missing = world.tell(&[&["run", "true", "--input", "datasets:data"][..], &PROCESS].concat()).await;
    assert_eq!(missing.status.code(), Some(2), "{}", text(&missing.stderr));
    assert!(text(&missing.stderr).contains("datasets"), "{}", text(&missing.stderr));
    // It succeeded, and left less than it had promised: that is no success, and what is there is named.
    let run = [&["run", "mkdir out && touch out/modle.pt", "--output", "out/*.pth:model"][..], &PROCESS].concat();
    let less = world.tell(&run).await;
    assert_eq!(less.status.code(), Some(120), "{}", text(&less.stderr));
    let said = text(&less.stderr);
    assert!(said.contains("output_failed") && said.contains("out/*.pth") && said.contains("modle.pt"), "{said}");
    let nothing = world.tell(&["get", "last"]).await;
    assert_eq!(nothing.status.code(), Some(4));
    // A failure keeps what is kept always, and nothing else.
    let run = [
        &[
            "run",
            "echo why >report.txt; echo half >model.pt; exit 3",
            "--output",
            "model.pt:model",
            "--output-always",
            "report.txt:report",
        ][..],
        &PROCESS,
    ];
    assert_eq!(world.tell(&run.concat()).await.status.code(), Some(3));
    assert_eq!(world.say(&["get", "last", "--to", "failed"]).await, "failed/report.txt\n");
    assert_eq!(fs::read(world.work().join("failed/report.txt")).expect("it came out"), b"why\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_killed_while_outputs_travel_loses_none() {
    let mut world = World::with_dataset().await;
    let line = "head -c 300000000 /dev/zero | tr '\\0' 'x' >big.bin; echo made; sha256sum big.bin | cut -d ' ' -f 1";
    let run = [&["run", "--detach", line, "--disk", "1GiB", "--output", "big.bin:big"][..], &PROCESS].concat();
    let id = world.say(&run).await.trim().to_owned();
    until("its process has ended", SOON, async || {
        let task: Value = serde_json::from_str(&world.say(&["status", &id, "-o", "json"]).await).expect("JSON");
        let state = task["state"].as_str().expect("a state").to_owned();
        (state == "finishing" || state == "succeeded").then_some(())
    })
    .await;
    world.restart_and_find().await;
    assert_eq!(world.tell(&["wait", &id]).await.status.code(), Some(0));
    let digest = world.say(&["logs", &id]).await.lines().last().expect("a line").to_owned();
    let artifact: Value =
        serde_json::from_str(&world.say(&["artifact", "show", "big", "-o", "json"]).await).expect("JSON");
    assert_eq!((&artifact["size"], &artifact["sha256"]), (&300_000_000.into(), &digest.into()));
    assert_eq!(artifact["version"], 1, "one artifact, however often it was begun");
}

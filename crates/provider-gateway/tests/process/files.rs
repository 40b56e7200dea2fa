//! What a process finds before it starts, and what is kept of what it leaves.

use crate::{kit::*, platform::*};
use domain::{
    artifact::ArtifactKind,
    outcome::{ExitFacts, FailureKind},
};
use provider_gateway::{
    artifacts::{Refusal, outputs},
    executor::{Executor, Failure, Job},
};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

struct Files {
    rig: Rig,
    platform: Arc<Platform>,
}

impl Files {
    async fn new() -> Self {
        Self::with_limit(1 << 40).await
    }
    async fn with_limit(limit_bytes: u64) -> Self {
        let (platform, rig) = (Platform::start().await, Rig::new());
        let mut files = Self { rig, platform };
        files.restart(limit_bytes);
        files
    }
    /// Another agent, with what is on disk.
    fn restart(&mut self, limit_bytes: u64) {
        let record = self.rig.settings.data_dir.join("inputs.json");
        let inputs = self.platform.inputs(&record, limit_bytes);
        self.rig.executor = self.rig.another_agent().with_inputs(inputs).expect("a directory of inputs");
    }
    fn job(&self, command: &str, inputs: &[&str], outputs: Value) -> Job {
        let inputs: Vec<Value> = inputs.iter().map(|path| json!({"artifact": "data@3", "path": path})).collect();
        self.rig.job_of(json!({"executor": "process", "command": command, "inputs": inputs, "outputs": outputs}))
    }
    async fn store(&self, job: &Job, exit: &ExitFacts) -> Result<(), Failure> {
        within(outputs::store(job, &self.rig.executor, &self.platform.artifacts(), exit)).await
    }
    async fn prepare(&self, job: &Job) -> Result<serde_json::Map<String, Value>, Failure> {
        within(self.rig.executor.prepare(job)).await.map(|prepared| prepared.provenance)
    }
    async fn remove(&self, job: &Job) {
        within(self.rig.executor.remove(job)).await.expect("removed");
    }
}

fn directory(files: &[(&str, &str)]) -> (ArtifactKind, &'static str, Vec<u8>) {
    (ArtifactKind::Directory, "data", packed(files))
}

#[tokio::test]
async fn inputs_lie_whole_and_unchangeable_where_the_task_wants_them() {
    let files = Files::new().await;
    let command = "cat data/set/a/b data/one; touch data/set/new; echo x > data/set/a/b; echo x > data/one; \
        [ -w data ] && echo 'beside them there is room'";
    let job = files.job(command, &["data/set", "data/one"], json!([]));
    let job = files
        .platform
        .pin(job, vec![directory(&[("a/b", "first "), ("c", "")]), (ArtifactKind::File, "one", b"second\n".to_vec())]);
    let facts = files.prepare(&job).await.expect("prepared");
    let input = &facts["inputs"][0];
    assert_eq!(
        (&input["artifact"], &input["cached"], &input["path"]),
        (&json!("data@3"), &json!(false), &json!("/workspace/data/set"))
    );
    assert_eq!(input["bytes"], input["bytes_fetched"]);
    let exit = files.rig.run(&job).await;
    assert_eq!(stdout(&job), "first second\nbeside them there is room\n", "{exit:?}");
    let said = notes(&job);
    assert!(said.contains("fetching data@3 ") && said.contains("data@3 is here\n"), "{said}");
    files.remove(&job).await;

    // The next task of this node fetches nothing.
    let given = files.platform.state().given;
    let again = files.job("cat data/set/a/b data/one", &["data/set", "data/one"], json!([]));
    let again = Job {
        spec: Arc::new(domain::spec::TaskSpec { inputs: job.spec.inputs.clone(), ..(*again.spec).clone() }),
        ..again
    };
    let facts = files.prepare(&again).await.expect("prepared");
    assert_eq!((&facts["inputs"][0]["cached"], &facts["inputs"][0]["bytes_fetched"]), (&json!(true), &json!(0)));
    files.rig.run(&again).await;
    assert_eq!((stdout(&again).as_str(), files.platform.state().given), ("first second\n", given));
}

#[tokio::test]
async fn a_second_use_of_a_hundred_thousand_files_costs_next_to_nothing_also_after_a_restart() {
    let mut files = Files::new().await;
    let names: Vec<String> =
        (0..if is_root() { 100_000 } else { 1_000 }).map(|n| format!("{:03}/{n}", n % 500)).collect();
    let content: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let first = files.platform.pin(files.job("true", &["set"], json!([])), vec![directory(&content)]);
    files.prepare(&first).await.expect("prepared");
    files.remove(&first).await;
    files.restart(1 << 40);
    let second = files.job("ls set | wc -l", &["set"], json!([]));
    let second = Job {
        spec: Arc::new(domain::spec::TaskSpec { inputs: first.spec.inputs.clone(), ..(*second.spec).clone() }),
        ..second
    };
    let began = Instant::now();
    let facts = files.prepare(&second).await.expect("prepared");
    println!("second use: {:?}", began.elapsed());
    assert_eq!(facts["inputs"][0]["cached"], true);
    files.rig.run(&second).await;
    assert_eq!(stdout(&second).trim(), "500");
}

#[tokio::test]
async fn two_tasks_that_want_the_same_input_fetch_it_once() {
    let files = Files::new().await;
    let content = noise(600_000);
    let pinned = |job| files.platform.pin(job, vec![(ArtifactKind::File, "data", content.clone())]);
    let (one, two) = (pinned(files.job("true", &["x"], json!([]))), pinned(files.job("true", &["x"], json!([]))));
    let (first, second) = tokio::join!(files.prepare(&one), files.prepare(&two));
    first.expect("prepared");
    second.expect("prepared");
    assert_eq!(files.platform.state().given, content.len());
    let said = notes(&one) + &notes(&two);
    assert!(said.contains("waiting for data@3, which another task is fetching"), "{said}");
}

#[tokio::test]
async fn a_store_that_is_away_is_waited_for_and_that_is_said_once() {
    let files = Files::new().await;
    let job =
        files.platform.pin(files.job("true", &["x"], json!([])), vec![(ArtifactKind::File, "data", noise(300_000))]);
    files.platform.state().is_away = true;
    let (prepared, ()) = tokio::join!(files.prepare(&job), async {
        until("trouble is told", || notes(&job).contains("trying again")).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        files.platform.state().is_away = false;
    });
    prepared.expect("prepared");
    let said = notes(&job);
    assert_eq!((said.matches("trying again").count(), said.matches("it goes on").count()), (1, 1), "{said}");
}

#[tokio::test]
async fn a_fetch_whose_agent_died_is_taken_up_by_the_next_one() {
    let mut files = Files::new().await;
    let content = noise(2_000_000);
    let job = files.job("wc -c < x", &["x"], json!([]));
    let job = files.platform.pin(job, vec![(ArtifactKind::File, "data", content.clone())]);
    files.platform.state().given_at_most = Some(1_000_000);
    {
        let mut preparing = Box::pin(files.prepare(&job));
        tokio::select! {
            prepared = &mut preparing => panic!("{prepared:?}"),
            () = until("the store is away", || notes(&job).contains("trying again")) => {}
        }
    }
    {
        let mut state = files.platform.state();
        (state.is_away, state.given_at_most) = (false, None);
    }
    files.restart(1 << 40);
    files.prepare(&job).await.expect("prepared");
    files.rig.run(&job).await;
    assert_eq!(stdout(&job).trim(), "2000000");
    let given = files.platform.state().given;
    assert!(given < 2_800_000, "{given} of 2000000 bytes were given out: it went on where it was");
}

#[tokio::test]
async fn an_input_that_is_damaged_gone_or_made_to_do_harm_is_told_and_nothing_of_it_stays() {
    let mut files = Files::new().await;
    let file = |files: &Files| {
        files.platform.pin(files.job("true", &["x"], json!([])), vec![(ArtifactKind::File, "data", noise(100_000))])
    };
    let job = file(&files);
    files.platform.state().damaged = 1;
    files.prepare(&job).await.expect("fetched once more");
    files.remove(&job).await;

    files.restart(0);
    let hostile = {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.as_old_mut().name[..9].copy_from_slice(b"../escape");
        header.set_cksum();
        archive.append(&header, &b"x"[..]).expect("written");
        zstd::encode_all(&archive.into_inner().expect("an archive")[..], 3).expect("packed")
    };
    let bad =
        files.platform.pin(files.job("true", &["x"], json!([])), vec![(ArtifactKind::Directory, "data", hostile)]);
    let failure = files.prepare(&bad).await.expect_err("it leads out");
    assert_eq!(failure.kind, FailureKind::InputUnavailable);
    assert!(failure.message.contains("../escape"), "{}", failure.message);

    let twice = files.platform.pin(files.job("true", &["x"], json!([])), vec![(ArtifactKind::File, "data", noise(99))]);
    files.platform.state().damaged = 2;
    let failure = files.prepare(&twice).await.expect_err("wrong twice");
    assert!(
        failure.kind == FailureKind::InputUnavailable && failure.message.contains("SHA-256"),
        "{}",
        failure.message
    );
    files.platform.state().refuses = Some("imagenet@3 was removed".into());
    let gone = files.platform.pin(files.job("true", &["x"], json!([])), vec![(ArtifactKind::File, "data", noise(98))]);
    let failure = files.prepare(&gone).await.expect_err("it is gone");
    assert_eq!((failure.kind, failure.message.contains("was removed")), (FailureKind::InputUnavailable, true));
    let left: Vec<_> =
        std::fs::read_dir(files.rig.settings.data_dir.join("inputs")).expect("there").flatten().collect();
    assert!(
        left.iter().all(|entry| entry.file_name().to_string_lossy().ends_with(".part")
            || entry.metadata().is_ok_and(|meta| meta.len() == 100_000)),
        "{left:?}"
    );
}

#[tokio::test]
async fn a_path_that_is_taken_by_the_code_is_refused_and_no_link_of_it_is_followed() {
    let files = Files::new().await;
    for path in ["origin", "origin/below"] {
        let mut body = json!({
            "executor": "process", "command": "true",
            "source": { "code_repo_url": "https://git.example/lab/x.git", "code_commit_id": "4f0c1d2e3b4a59687706f5e4d3c2b1a098765432" },
        });
        body["inputs"] = json!([{"artifact": "data@3", "path": path}]);
        let job = files.platform.pin(files.rig.job_of(body), vec![directory(&[("a", "1")])]);
        let failure = files.prepare(&job).await.expect_err("the code has a file there");
        assert_eq!(failure.kind, FailureKind::InputUnavailable, "{}", failure.message);
        assert!(failure.message.contains(&format!("/workspace/{path}")), "{}", failure.message);
    }
}

#[tokio::test]
async fn the_longest_unused_input_goes_for_a_new_one_and_what_a_task_uses_stays() {
    let files = Files::with_limit(250_000).await;
    let job = |name: &'static str, bytes: usize| {
        let job = files.job("true", &["x"], json!([]));
        files.platform.pin(job, vec![(ArtifactKind::File, name, noise(bytes))])
    };
    let is_there = |job: &Job| {
        let sha256 = job.spec.inputs[0].pinned.as_ref().expect("pinned").sha256.to_string();
        let name = format!("file-{}", sha256.trim_start_matches("sha256:"));
        files.rig.settings.data_dir.join("inputs").join(name).exists()
    };
    let (used, idle, new) = (job("used", 100_001), job("idle", 100_002), job("new", 100_003));
    // Each is fetched as the first input of all tasks.
    for job in [&used, &idle, &new] {
        let content = noise(job.spec.inputs[0].pinned.as_ref().expect("pinned").size as usize);
        files.platform.state().inputs.insert(0, content);
        files.prepare(job).await.expect("prepared");
        if job.held == idle.held {
            files.remove(job).await;
        }
    }
    assert_eq!([is_there(&used), is_there(&idle), is_there(&new)], [true, false, true]);
}

/// A disk of its own, so large. Gone when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(dir.path())
            .status();
        assert!(mounted.expect("mount runs").success(), "only root can mount a small disk: run the tests as root");
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_loses_what_nobody_uses_before_an_input_is_refused_with_the_sizes() {
    let small = Small::new("8m");
    let (platform, rig) =
        (Platform::start().await, Rig::with(|settings| settings.data_dir = small.0.path().to_owned()));
    let mut files = Files { rig, platform };
    files.restart(1 << 40);
    let job = |name: &'static str, bytes: usize| {
        let job = files.job("true", &["x"], json!([]));
        files.platform.pin(job, vec![(ArtifactKind::File, name, noise(bytes))])
    };
    let idle = job("idle", 5 << 20);
    files.prepare(&idle).await.expect("prepared");
    files.remove(&idle).await;
    let used = job("used", 5_000_000);
    files.prepare(&used).await.expect("prepared");
    assert!(
        notes(&used).contains("data@3") || notes(&used).contains("used@3: 5 MiB of unused inputs were removed"),
        "{}",
        notes(&used)
    );
    let refused = files.prepare(&job("more", 5_000_001)).await.expect_err("there is no room");
    assert_eq!(refused.kind, FailureKind::InputUnavailable);
    assert!(
        refused.message.starts_with("disk full: more@3 (4.8 MiB) does not fit on this node: ")
            && refused.message.contains("are free there"),
        "{}",
        refused.message
    );
}

const SUCCESS: ExitFacts = ExitFacts {
    code: Some(0),
    signal: None,
    oom: false,
    timed_out: false,
    cancelled: false,
    duration_ms: 0,
    cpu_ms: None,
    peak_memory_bytes: None,
    started_at: None,
    ended_at: None,
    not_started: None,
    outputs_due: 0,
};

#[tokio::test]
async fn what_a_task_leaves_is_stored_as_files_and_as_directories() {
    let files = Files::new().await;
    let command = "mkdir -p out/deep run; echo model > out/model.pt; echo more > out/deep/more.pt; echo log > out/log; \
        ln -s out/model.pt best; ln out/model.pt out/same.pt; ln -s /etc/passwd out/secret.pt; ln -s model.pt out/good.pt; \
        mkfifo out/pipe.pt; printf x > \"out/$(printf 'a\\nb').pt\"; truncate -s 1M out/holes.pt";
    let outputs = json!([
        {"path": "out/**/*.pt", "name": "all"}, {"path": "best", "name": "best"}, {"path": "out/deep", "name": "deep"},
    ]);
    let job = files.job(command, &[], outputs);
    let exit = files.rig.run(&job).await;
    assert_eq!(exit.code, Some(0), "{}", String::from_utf8_lossy(&bytes(&job, protocol::Stream::Stderr)));
    files.store(&job, &exit).await.expect("stored");
    {
        let state = files.platform.state();
        let stored = |index| &state.outputs[&(job.held.attempt, index)];
        assert_eq!(
            stored(0).names(),
            ["a\nb.pt", "deep", "deep/more.pt", "good.pt", "holes.pt", "model.pt", "same.pt"]
        );
        assert_eq!((stored(1).bytes(), stored(1).create.kind), (b"model\n".to_vec(), ArtifactKind::File));
        assert_eq!(stored(1).create.file_name, "best");
        assert_eq!(stored(2).bytes(), packed(&[("more.pt", "more\n")]), "byte for byte what anybody packs");
    }
    let said = notes(&job);
    assert!(said.contains("storing /workspace/out/**/*.pt as all\n") && said.contains("out@1 is stored: "), "{said}");
    assert!(said.contains("secret.pt is left out: it is a link to /etc/passwd"), "{said}");
    assert!(said.contains("pipe.pt is left out: it is a named pipe"), "{said}");

    // Asked once more, as after a restart: nothing is sent again.
    let puts = files.platform.state().puts;
    files.store(&job, &exit).await.expect("stored");
    assert_eq!(files.platform.state().puts, puts);
}

#[tokio::test]
async fn what_is_not_there_fails_a_task_that_succeeded_and_only_that() {
    let files = Files::new().await;
    let outputs = json!([
        {"path": "out/*.pt", "name": "model", "on": "always"}, {"path": "none/x", "name": "x"}, {"path": "kept", "name": "kept"},
    ]);
    let job = files.job("mkdir out; echo 1 > out/a.txt; echo 2 > kept", &[], outputs);
    files.rig.run(&job).await;
    let failure = files.store(&job, &SUCCESS).await.expect_err("nothing matches");
    assert_eq!(failure.kind, FailureKind::OutputFailed);
    assert_eq!(failure.message, "nothing matches the output /workspace/out/*.pt (model): there is a.txt");
    let said = notes(&job);
    assert!(said.contains("/workspace/none/x (x): in /workspace there is kept, out"), "{said}");
    assert!(
        files.platform.state().outputs[&(job.held.attempt, 2)].ready.is_some(),
        "the others are stored all the same"
    );
    let failed = ExitFacts { code: Some(1), ..SUCCESS };
    files.store(&job, &failed).await.expect("what is missing after a failure is no second one");
}

#[tokio::test]
async fn no_output_is_read_through_a_link_that_leads_out() {
    let files = Files::new().await;
    let outputs = json!([
        {"path": "etc/passwd", "name": "a"}, {"path": "passwd", "name": "b"}, {"path": "etc/*", "name": "c"}, {"path": "up/*", "name": "d"},
    ]);
    let job = files.job("ln -s /etc etc; ln -s /etc/passwd passwd; ln -s .. up", &[], outputs);
    files.rig.run(&job).await;
    let failure = files.store(&job, &SUCCESS).await.expect_err("they lead out");
    assert_eq!(failure.kind, FailureKind::OutputFailed);
    assert_eq!(notes(&job).matches("leads out of the task's directory").count(), 4, "{}", notes(&job));
    assert!(files.platform.state().outputs.is_empty());
}

#[tokio::test]
async fn an_upload_that_was_cut_goes_on_with_what_is_stored_also_by_the_next_agent() {
    let files = Files::new().await;
    let job = files.job("head -c 600000 /dev/urandom > big", &[], json!([{"path": "big", "name": "big"}]));
    files.rig.run(&job).await;
    files.platform.state().away_after = Some(8);
    {
        let mut storing = Box::pin(files.store(&job, &SUCCESS));
        tokio::select! {
            stored = &mut storing => panic!("{stored:?}"),
            () = until("the store is away", || notes(&job).contains("trying again")) => {}
        }
    }
    let before = {
        let mut state = files.platform.state();
        (state.is_away, state.away_after) = (false, None);
        state.puts
    };
    files.store(&job, &SUCCESS).await.expect("stored");
    let state = files.platform.state();
    // Of ten parts; some were on their way when it went away.
    assert!(state.puts - before <= 5, "{} were sent again", state.puts - before);
    assert_eq!(state.outputs[&(job.held.attempt, 0)].bytes().len(), 600_000);
}

#[tokio::test]
async fn an_attempt_that_is_fenced_says_nothing_more() {
    let files = Files::new().await;
    let job = files.job("echo 1 > x", &[], json!([{"path": "x", "name": "x"}]));
    files.rig.run(&job).await;
    files.platform.state().refusal = Some(Refusal::Fenced);
    let artifacts = files.platform.artifacts();
    let storing = outputs::store(&job, &files.rig.executor, &artifacts, &SUCCESS);
    assert!(tokio::time::timeout(Duration::from_millis(500), storing).await.is_err(), "whoever waits is told to stop");
    // The platform has its end, by what it knew of its exit: nobody will.
    files.platform.state().refusal = Some(Refusal::Ended);
    files.store(&job, &SUCCESS).await.expect("there is nothing more to do");
}

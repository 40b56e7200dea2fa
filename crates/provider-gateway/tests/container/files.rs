//! What a container finds before it starts, and what is kept of what it leaves.

use crate::{
    dockerd::Dockerd,
    platform::{Platform, noise, packed},
    rig::{Attempt, Rig, docker, inspect, until},
};
use domain::{
    artifact::ArtifactKind,
    outcome::{ExitFacts, FailureKind},
    spec::TaskSpec,
};
use protocol::Stream;
use provider_gateway::{
    artifacts::outputs,
    container::ContainerExecutor,
    executor::{Executor, Failure, Job},
};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const BUSYBOX: &str = "FROM unidesk-test/busybox:latest\n";

struct Files {
    rig: Rig,
    platform: Arc<Platform>,
    environment: String,
}

impl Files {
    async fn new() -> Self {
        Self::with_limit(1 << 40).await
    }
    async fn with_limit(limit_bytes: u64) -> Self {
        let (rig, platform) = (Rig::new(), Platform::start().await);
        let environment = rig.environment(BUSYBOX);
        let mut files = Self { rig, platform, environment };
        files.restart(limit_bytes);
        files
    }
    /// Another agent, with what is on disk.
    fn restart(&mut self, limit_bytes: u64) {
        let inputs = self.platform.inputs(&self.rig.settings.data_dir.join("inputs.json"), limit_bytes);
        let executor = ContainerExecutor::new(self.rig.settings.clone(), self.rig.trees.clone()).unwrap();
        self.rig.executor = Arc::new(executor.with_inputs(inputs));
    }
    fn attempt(&self, command: &str, inputs: &[&str], outputs: Value) -> Attempt {
        self.attempt_with(command, inputs, outputs, &[])
    }
    fn attempt_with(&self, command: &str, inputs: &[&str], outputs: Value, code: &[(&str, &[u8])]) -> Attempt {
        let inputs: Vec<Value> = inputs.iter().map(|path| json!({"artifact": "data@3", "path": path})).collect();
        self.rig.job(&self.environment, code, json!({"command": command, "inputs": inputs, "outputs": outputs}))
    }
    fn pin(&self, attempt: Attempt, inputs: Vec<(ArtifactKind, &str, Vec<u8>)>) -> Attempt {
        Attempt { job: self.platform.pin(attempt.job.clone(), inputs), ..attempt }
    }
    async fn store(&self, attempt: &Attempt, exit: &ExitFacts) -> Result<(), Failure> {
        outputs::store(&attempt.job, &*self.rig.executor, &self.platform.artifacts(), exit).await
    }
    fn volumes(&self) -> Vec<String> {
        let label = format!("label=unidesk.input={}", self.rig.settings.instance);
        docker(&["volume", "ls", "-q", "--filter", &label]).split_whitespace().map(str::to_owned).collect()
    }
    fn helpers(&self) -> String {
        docker(&["ps", "-aq", "--filter", &format!("label=unidesk.input={}", self.rig.settings.instance)])
    }
}

/// The inputs of one task for another.
fn same_inputs(attempt: Attempt, as_in: &Attempt) -> Attempt {
    let spec = TaskSpec { inputs: as_in.job.spec.inputs.clone(), ..(*attempt.job.spec).clone() };
    Attempt { job: Job { spec: Arc::new(spec), ..attempt.job.clone() }, ..attempt }
}

#[tokio::test]
async fn inputs_lie_whole_and_unchangeable_where_the_task_wants_them_and_once_on_the_node() {
    let mut files = Files::new().await;
    let command = "cat /data/set/a/b /opt/one in/deep/c; touch /data/set/new; echo x > /data/set/a/b; echo x > /opt/one; \
        touch in/mine && echo 'beside them there is room'";
    let attempt = files.attempt_with(command, &["/data/set", "/opt/one", "in/deep"], json!([]), &[("in/code", b"x")]);
    let attempt = files.pin(
        attempt,
        vec![
            (ArtifactKind::Directory, "set", packed(&[("a/b", "first "), ("c", "")])),
            (ArtifactKind::File, "one", b"second ".to_vec()),
            (ArtifactKind::Directory, "deep", packed(&[("c", "third\n")])),
        ],
    );
    let prepared = files.rig.executor.prepare(&attempt.job).await.unwrap();
    assert_eq!(prepared.provenance["inputs"][1]["artifact"], "one@3");
    let exit = files.rig.run(&attempt).await.unwrap();
    assert_eq!(
        attempt.text(Stream::Stdout),
        "first second third\nbeside them there is room\n",
        "{exit:?} {}",
        attempt.text(Stream::Stderr)
    );
    assert_eq!((files.volumes().len(), files.helpers().as_str()), (3, ""));
    let mounts = inspect(&attempt.container())["Mounts"].clone();
    assert!(mounts.as_array().unwrap().iter().all(|mount| mount["RW"] == false), "{mounts}");
    files.rig.executor.remove(&attempt.job).await.unwrap();
    assert_eq!(files.volumes().len(), 3, "they stay for the tasks that come after");

    // Also after a restart of the agent, nothing is fetched again.
    files.restart(1 << 40);
    let given = files.platform.state().given;
    let again = files.attempt("cat /data/set/a/b /opt/one", &["/data/set", "/opt/one", "in/deep"], json!([]));
    let again = same_inputs(again, &attempt);
    let began = Instant::now();
    let facts = files.rig.executor.prepare(&again.job).await.unwrap().provenance;
    println!("second use, container and all: {:?}; inputs {}", began.elapsed(), facts["inputs"]);
    assert!(facts["inputs"].as_array().unwrap().iter().all(|input| input["cached"] == true), "{}", facts["inputs"]);
    files.rig.run(&again).await.unwrap();
    assert_eq!((again.text(Stream::Stdout).as_str(), files.platform.state().given), ("first second ", given));
}

#[tokio::test]
async fn what_was_half_filled_when_its_agent_died_is_never_used() {
    let mut files = Files::new().await;
    let content = noise(900_000);
    let input = || vec![(ArtifactKind::File, "data", content.clone())];
    let attempt = files.pin(files.attempt("wc -c < /data", &["/data"], json!([])), input());
    files.platform.state().is_away = true;
    {
        let mut preparing = Box::pin(files.rig.executor.prepare(&attempt.job));
        tokio::select! {
            prepared = &mut preparing => panic!("{prepared:?}"),
            () = until("it is being filled", || files.volumes().len() == 1 && attempt.text(Stream::System).contains("trying again")) => {}
        }
    }
    files.platform.state().is_away = false;
    files.restart(1 << 40);
    let exit = files.rig.run(&attempt).await.unwrap();
    assert_eq!((exit.code, attempt.text(Stream::Stdout).trim()), (Some(0), "900000"));
    assert_eq!((files.volumes().len(), files.helpers().as_str()), (1, ""));
}

#[tokio::test]
async fn an_input_that_is_damaged_or_made_to_do_harm_leaves_no_volume() {
    let files = Files::new().await;
    let pin = |kind, content| files.pin(files.attempt("true", &["/data"], json!([])), vec![(kind, "data", content)]);
    let hostile = {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, kind, target) in [("d", tar::EntryType::Symlink, "e"), ("d/x", tar::EntryType::Regular, "")] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o644);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_cksum();
            archive.append(&header, std::io::empty()).unwrap();
        }
        zstd::encode_all(&archive.into_inner().unwrap()[..], 3).unwrap()
    };
    let attempt = pin(ArtifactKind::Directory, hostile);
    let failure = files.rig.executor.prepare(&attempt.job).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::InputUnavailable);
    assert!(failure.message.contains("no directory of the archive"), "{}", failure.message);

    let attempt = pin(ArtifactKind::File, noise(70_000));
    files.platform.state().damaged = 4;
    let failure = files.rig.executor.prepare(&attempt.job).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::InputUnavailable);
    assert!(failure.message.contains("SHA-256"), "{}", failure.message);
    assert_eq!((files.volumes().len(), files.helpers().as_str()), (0, ""));
    files.platform.state().damaged = 1;
    files.rig.executor.prepare(&attempt.job).await.unwrap();
}

#[tokio::test]
async fn the_longest_unused_input_goes_for_a_new_one() {
    let files = Files::with_limit(250_000).await;
    let mut attempts = Vec::new();
    for (name, bytes) in [("used", 100_001), ("idle", 100_002), ("new", 100_003)] {
        let attempt = files.attempt("true", &["/data"], json!([]));
        let attempt = files.pin(attempt, vec![(ArtifactKind::File, name, noise(bytes))]);
        files.rig.executor.prepare(&attempt.job).await.unwrap();
        if name == "idle" {
            files.rig.executor.remove(&attempt.job).await.unwrap();
        }
        attempts.push(attempt);
    }
    let volumes = files.volumes().join(" ");
    let is_there = |attempt: &Attempt| {
        let sha256 = attempt.job.spec.inputs[0].pinned.as_ref().unwrap().sha256.to_string();
        volumes.contains(sha256.trim_start_matches("sha256:"))
    };
    assert_eq!(attempts.iter().map(is_there).collect::<Vec<_>>(), [true, false, true]);
}

#[tokio::test]
async fn what_a_container_leaves_is_stored_as_files_and_as_directories() {
    let files = Files::new().await;
    let command = "mkdir -p out/deep/empty /elsewhere; echo model > out/model.pt; echo more > out/deep/more.pt; echo log > out/log; \
        ln -s out/model.pt best; ln out/model.pt out/same.pt; ln out/log out/log.pt; ln -s /etc/passwd out/secret.pt; ln -s model.pt out/good.pt; \
        mkfifo out/pipe.pt; touch \"out/$(printf 'a\\nb').pt\"; truncate -s 1M out/holes.pt; echo x > /elsewhere/x; \
        n=$(printf '%0250d' 7); echo long > out/$n.pt; cat in/a";
    let outputs = json!([
        {"path": "out/**/*.pt", "name": "all"}, {"path": "best", "name": "best"}, {"path": "out/deep", "name": "deep"},
        {"path": "/elsewhere/x", "name": "x", "on": "always"}, {"path": "**/a", "name": "inputs", "on": "always"},
    ]);
    let attempt = files.attempt(command, &["in"], outputs);
    let attempt = files.pin(attempt, vec![(ArtifactKind::Directory, "in", packed(&[("a", "input")]))]);
    let exit = files.rig.run(&attempt).await.unwrap();
    assert_eq!(exit.code, Some(0), "{}", attempt.text(Stream::Stderr));
    let failure = files.store(&attempt, &exit).await.unwrap_err();
    assert!(failure.message.starts_with("nothing matches the output /workspace/**/a (inputs)"), "{}", failure.message);
    {
        let state = files.platform.state();
        let stored = |index| &state.outputs[&(attempt.job.held.attempt, index)];
        let long = format!("{:0250}.pt", 7);
        assert_eq!(
            stored(0).names(),
            [&long, "a\nb.pt", "deep", "deep/more.pt", "good.pt", "holes.pt", "log.pt", "model.pt", "same.pt"]
        );
        assert_eq!((stored(1).bytes(), stored(1).create.kind), (b"model\n".to_vec(), ArtifactKind::File));
        assert_eq!(stored(2).names(), ["empty", "more.pt"]);
        assert_eq!((stored(3).bytes(), stored(3).create.size), (b"x\n".to_vec(), Some(2)));
        let listed = transfer::list(std::io::Cursor::new(stored(0).bytes()), &Default::default()).unwrap();
        assert_eq!(listed[&b"same.pt"[..]], listed[&b"model.pt"[..]], "another name of a file is a file");
        let transfer::Listed::File { size, .. } = &listed[&b"log.pt"[..]] else { panic!("{listed:?}") };
        assert_eq!(*size, 4, "also where its first name was not wanted");
    }
    let said = attempt.text(Stream::System);
    assert!(said.contains("secret.pt is left out: it is a link to /etc/passwd"), "{said}");
    assert!(said.contains("pipe.pt is left out: it is a named pipe"), "{said}");

    // Asked once more, as after a restart: nothing is sent again.
    let puts = files.platform.state().puts;
    let _ = files.store(&attempt, &exit).await;
    assert_eq!(files.platform.state().puts, puts);
}

#[tokio::test]
async fn the_same_files_are_the_same_bytes_from_a_container_as_from_a_directory() {
    let files = Files::new().await;
    let command = "mkdir -p out/b out/a.d; for n in b/x b/é a.d/y a-x a 'c d'; do echo $n > \"out/$n\"; done; chmod +x out/a; ln -s b/x out/l";
    let attempt = files.attempt(command, &[], json!([{"path": "out", "name": "out"}]));
    let exit = files.rig.run(&attempt).await.unwrap();
    files.store(&attempt, &exit).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let script = format!("cd {}; {command}", dir.path().display());
    assert!(std::process::Command::new("sh").args(["-ec", &script]).status().unwrap().success());
    let mut packed = Vec::new();
    transfer::pack(&dir.path().join("out"), &mut packed, &|_| {}).unwrap();
    let state = files.platform.state();
    assert!(state.outputs[&(attempt.job.held.attempt, 0)].bytes() == packed);
}

#[tokio::test]
async fn what_is_not_there_is_told_with_what_is() {
    let files = Files::new().await;
    let outputs = json!([
        {"path": "out/*.pt", "name": "model"}, {"path": "none/deep/x", "name": "x"}, {"path": "/nowhere/x", "name": "y"},
    ]);
    let attempt = files.attempt("mkdir out; echo 1 > out/a.txt; echo 2 > kept", &[], outputs);
    let exit = files.rig.run(&attempt).await.unwrap();
    let failure = files.store(&attempt, &exit).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::OutputFailed);
    assert_eq!(failure.message, "nothing matches the output /workspace/out/*.pt (model): there is a.txt");
    let said = attempt.text(Stream::System);
    assert!(said.contains("/workspace/none/deep/x (x): in /workspace there is kept, out"), "{said}");
    assert!(said.contains("/nowhere/x (y): in / there is "), "{said}");
    let gone = files.attempt("true", &[], json!([{"path": "x", "name": "x"}]));
    let exit = files.rig.run(&gone).await.unwrap();
    docker(&["rm", "-f", &gone.container()]);
    let failure = files.store(&gone, &exit).await.unwrap_err();
    assert_eq!((failure.kind, failure.message.contains("removed by somebody else")), (FailureKind::NodeError, true));
}

#[tokio::test]
async fn an_upload_that_was_cut_goes_on_with_what_is_stored() {
    let files = Files::new().await;
    let attempt = files.attempt("head -c 600000 /dev/urandom > big", &[], json!([{"path": "big", "name": "big"}]));
    let exit = files.rig.run(&attempt).await.unwrap();
    files.platform.state().away_after = Some(8);
    {
        let mut storing = Box::pin(files.store(&attempt, &exit));
        tokio::select! {
            stored = &mut storing => panic!("{stored:?}"),
            () = until("the store is away", || attempt.text(Stream::System).contains("trying again")) => {}
        }
    }
    let before = {
        let mut state = files.platform.state();
        (state.is_away, state.away_after) = (false, None);
        state.puts
    };
    tokio::time::timeout(Duration::from_secs(30), files.store(&attempt, &exit)).await.unwrap().unwrap();
    // Of ten parts; some were on their way when it went away.
    let sent = files.platform.state().puts - before;
    assert!(sent <= 5, "{sent} were sent again");
    assert_eq!(files.platform.state().outputs[&(attempt.job.held.attempt, 0)].bytes().len(), 600_000);
}

#[tokio::test]
async fn a_docker_that_goes_away_while_outputs_are_read_is_waited_for() {
    let mut daemon = Dockerd::new().await;
    let socket = daemon.socket();
    let (rig, platform) = (Rig::with(|settings| settings.socket = socket), Platform::start().await);
    let environment = rig.environment(BUSYBOX);
    let mut files = Files { rig, platform, environment };
    files.restart(1 << 40);
    let outputs = json!([{"path": "out/**/*.bin", "name": "out"}, {"path": "out/2.bin", "name": "one"}]);
    let line = "mkdir out; for n in 1 2 3; do head -c 2000000 /dev/urandom > out/$n.bin; done";
    let attempt =
        files.rig.job(&files.environment, &[], json!({"command": line, "network": "none", "outputs": outputs}));
    let exit = files.rig.run(&attempt).await.unwrap();
    // Each part waits for the store, and so the archive stays open.
    files.platform.state().away_after = Some(4);
    let mut storing = Box::pin(files.store(&attempt, &exit));
    tokio::select! {
        stored = &mut storing => panic!("{stored:?}"),
        () = until("the store is away", || attempt.text(Stream::System).contains("trying again")) => {}
    }
    tokio::select! {
        stored = &mut storing => panic!("{stored:?}"),
        () = daemon.stop("-KILL") => {}
    }
    {
        let mut state = files.platform.state();
        (state.is_away, state.away_after) = (false, None);
    }
    tokio::select! {
        stored = &mut storing => panic!("{stored:?}"),
        () = until("it is told", || attempt.text(Stream::System).contains("out: Docker does not answer")) => {}
    }
    let (stored, ()) = tokio::join!(storing, daemon.restart());
    stored.unwrap();
    let state = files.platform.state();
    assert_eq!(state.outputs[&(attempt.job.held.attempt, 0)].names(), ["1.bin", "2.bin", "3.bin"]);
    assert_eq!(state.outputs[&(attempt.job.held.attempt, 1)].bytes().len(), 2_000_000);
}

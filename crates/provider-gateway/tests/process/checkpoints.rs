//! What is kept of a process while it runs, and what the next attempt finds.

use crate::{kit::*, platform::*};
use api_types::artifact::CreateOutput;
use domain::{artifact::ArtifactKind, outcome::FailureKind, spec::TaskSpec};
use provider_gateway::{
    artifacts::{Artifacts, checkpoints},
    executor::{Executor, Failure, Job, Signal},
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc, time::Duration};

struct Kept {
    rig: Rig,
    platform: Arc<Platform>,
}

impl Kept {
    async fn new() -> Self {
        let (platform, rig) = (Platform::start().await, Rig::new());
        let mut kept = Self { rig, platform };
        kept.restart();
        kept
    }
    /// Another agent, with what is on disk.
    fn restart(&mut self) {
        let record = self.rig.settings.data_dir.join("inputs.json");
        let inputs = self.platform.inputs(&record, 1 << 40);
        self.rig.executor = self.rig.another_agent().with_inputs(inputs).expect("a directory of inputs");
    }
    fn attempt(&self, number: u32, command: &str) -> Job {
        self.attempt_of(number, json!({"command": command, "checkpoints": {"path": "run/ckpt"}}))
    }
    fn attempt_of(&self, number: u32, body: Value) -> Job {
        Job { number, ..self.rig.job_of(body) }
    }
    fn artifacts(&self) -> Artifacts {
        self.platform.artifacts()
    }
    async fn take(&self, job: &Job) -> bool {
        within(checkpoints::take(job, &self.rig.executor, &self.artifacts())).await
    }
    /// Starts it, and waits until it has made a file of this name in its directory.
    async fn until_it_says(&self, job: &Job, word: &str) {
        self.rig.start(job).await;
        until(word, || job.dir.join("work").join(word).exists()).await;
    }
    fn count(&self) -> usize {
        self.platform.state().ready().len()
    }
    fn names(&self) -> Vec<String> {
        self.platform.state().ready().last().expect("one was stored").names()
    }
    async fn prepare(&self, job: &Job) -> Result<serde_json::Map<String, Value>, Failure> {
        within(self.rig.executor.prepare(job)).await.map(|prepared| prepared.provenance)
    }
    /// Something is stored as a checkpoint that no agent would pack.
    fn plant(&self, archive: &[u8]) {
        let create = CreateOutput { kind: ArtifactKind::Directory, size: None, file_name: "ckpt".into() };
        self.platform.state().plant(create, archive);
    }
}

fn directory(job: &Job) -> PathBuf {
    job.dir.join("work/run/ckpt")
}

/// A process that has saved something, and waits.
const SAVED: &str = "cd $UNIDESK_CHECKPOINT_DIR; mkdir -p deep; echo step 7 > deep/state; echo run > tool; chmod 700 tool; ln -s deep/state newest; \
    touch $HOME/saved; exec sleep 600";

#[tokio::test]
async fn the_next_attempt_finds_the_directory_as_it_was_and_may_change_it() {
    let kept = Kept::new().await;
    let first = kept.attempt(1, SAVED);
    kept.until_it_says(&first, "saved").await;
    assert!(kept.take(&first).await, "{}", notes(&first));
    assert!(notes(&first).contains("checkpoint 1 is stored: "), "{}", notes(&first));
    within(kept.rig.executor.remove(&first)).await.expect("removed");

    let command = "cd $UNIDESK_CHECKPOINT_DIR; cat newest; sh ./tool; [ -x tool ] && [ ! -x deep/state ] && echo modes; \
        [ $PWD/ -ef $HOME/run/ckpt/ ] && echo place; echo more >> deep/state && rm tool newest && mv deep other && echo mine; stat -c %u . other other/state";
    let second = kept.attempt(2, &command.replace("sh ./tool; ", ""));
    let facts = kept.prepare(&second).await.expect("prepared");
    let stored = kept.platform.state().ready()[0].ready.clone().expect("ready");
    assert_eq!(
        (&facts["checkpoint"]["id"], &facts["checkpoint"]["sha256"]),
        (&json!(stored.id), &json!(stored.sha256))
    );
    let exit = kept.rig.run(&second).await;
    let user = fs::metadata(second.dir.join("work")).expect("there").uid();
    assert_eq!(
        stdout(&second),
        format!("step 7\nmodes\nplace\nmine\n{user}\n{user}\n{user}\n"),
        "{exit:?} {}",
        String::from_utf8_lossy(&bytes(&second, protocol::Stream::Stderr))
    );
    assert!(notes(&second).contains("goes on from checkpoint 1: "), "{}", notes(&second));
}

#[tokio::test]
async fn a_first_attempt_has_an_empty_directory_of_its_own() {
    let kept = Kept::new().await;
    let job = kept.attempt(1, "cd run; ls -A ckpt; echo x > ckpt/x && rmdir ckpt 2>/dev/null; ls ckpt");
    kept.rig.run(&job).await;
    assert_eq!(stdout(&job), "x\n");
    // Also a later one, where none was ever stored.
    let job = kept.attempt(2, "ls -A run/ckpt | wc -l");
    kept.rig.run(&job).await;
    assert_eq!(stdout(&job).trim(), "0");
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again_nor_what_an_attempt_began_with() {
    let kept = Kept::new().await;
    let first = kept.attempt(1, SAVED);
    kept.until_it_says(&first, "saved").await;
    assert!(kept.take(&first).await && kept.take(&first).await);
    assert_eq!(kept.count(), 1);
    fs::write(directory(&first).join("deep/state"), "step 8\n").expect("written");
    assert!(kept.take(&first).await);
    assert_eq!(kept.count(), 2);

    let second = kept.attempt(2, "touch $HOME/here; sleep 600");
    kept.until_it_says(&second, "here").await;
    assert!(kept.take(&second).await);
    assert_eq!(kept.count(), 2, "{}", notes(&second));
    fs::write(directory(&second).join("deep/state"), "step 9\n").expect("written");
    assert!(kept.take(&second).await);
    assert_eq!(kept.count(), 3);
}

#[tokio::test]
async fn a_directory_that_is_being_written_to_is_left_alone_until_it_is_still() {
    let kept = Kept::new().await;
    let command = "touch $HOME/on; while [ ! -e stop ]; do echo x >> run/ckpt/log; sleep 0.02; done; echo whole > run/ckpt/log; touch still; exec sleep 600";
    let job = kept.attempt(1, command);
    let mut spec: TaskSpec = (*job.spec).clone();
    spec.checkpoints.as_mut().expect("it keeps some").every_ms = 1;
    let job = Job { spec: Arc::new(spec), ..job };
    kept.until_it_says(&job, "on").await;
    assert!(!kept.take(&job).await && !kept.take(&job).await && !kept.take(&job).await);
    assert_eq!(kept.platform.state().checkpoints.len(), 0, "nothing was even announced");
    let said = notes(&job);
    assert_eq!(said.matches("write to another name and rename what is whole").count(), 1, "{said}");
    fs::write(job.dir.join("work/stop"), "").expect("written");
    until("it is still", || job.dir.join("work/still").exists()).await;
    assert!(kept.take(&job).await, "{}", notes(&job));
    let listed =
        transfer::list(&kept.platform.state().ready()[0].bytes()[..], &Default::default()).expect("an archive");
    let transfer::Listed::File { size, .. } = &listed[&b"log"[..]] else { panic!("{listed:?}") };
    assert_eq!(*size, 6);
}

#[tokio::test]
async fn nothing_is_said_twice_of_what_is_not_there_or_no_directory() {
    let kept = Kept::new().await;
    let job = kept.attempt(1, "rmdir run/ckpt; touch $HOME/gone; until [ -e go ]; do sleep 0.02; done; echo x > run/ckpt; touch $HOME/file; exec sleep 600");
    kept.until_it_says(&job, "gone").await;
    assert!(kept.take(&job).await && kept.take(&job).await);
    fs::write(job.dir.join("work/go"), "").expect("written");
    until("it is a file", || job.dir.join("work/file").exists()).await;
    assert!(kept.take(&job).await && kept.take(&job).await);
    let said = notes(&job);
    for line in ["nothing lies in /workspace/run/ckpt yet", "/workspace/run/ckpt is no directory"] {
        assert_eq!(said.matches(line).count(), 1, "{said}");
    }
    assert_eq!(kept.count(), 0);
}

#[tokio::test]
async fn nothing_that_leads_out_is_kept_and_what_can_not_be_kept_is_told() {
    let kept = Kept::new().await;
    let command = "cd run/ckpt; echo 1 > a; ln -s /etc/passwd secret; ln -s ../../../.. up; mkfifo pipe; printf x > \"$(printf 'a\\nb')\"; touch $HOME/on; exec sleep 600";
    let job = kept.attempt(1, command);
    kept.until_it_says(&job, "on").await;
    assert!(kept.take(&job).await, "{}", notes(&job));
    assert_eq!(kept.names(), ["a", "a\nb"]);
    let said = notes(&job);
    for line in
        ["secret is left out: it is a link to /etc/passwd", "up is left out", "pipe is left out: it is a named pipe"]
    {
        assert!(said.contains(line), "{said}");
    }
    // Nor is the directory itself read through a link.
    let job = kept.attempt(1, "rmdir run/ckpt; ln -s /etc run/ckpt; touch $HOME/on; exec sleep 600");
    kept.until_it_says(&job, "on").await;
    assert!(kept.take(&job).await);
    assert_eq!(kept.count(), 1);
    assert!(notes(&job).contains("it is a link that leads out"), "{}", notes(&job));
}

#[tokio::test]
async fn a_damaged_or_hostile_newest_is_passed_over_and_with_none_left_it_begins_from_the_beginning() {
    let kept = Kept::new().await;
    let hostile = {
        let mut archive = tar::Builder::new(Vec::new());
        for name in ["good", "../escape"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, &b"x"[..]).expect("written");
        }
        zstd::encode_all(&archive.into_inner().expect("an archive")[..], 3).expect("packed")
    };
    kept.plant(&packed(&[("step", "1\n")]));
    kept.plant(&hostile);
    let job = kept.attempt(2, "ls -A run/ckpt; cat run/ckpt/step");
    kept.rig.run(&job).await;
    assert_eq!(stdout(&job), "step\n1\n");
    let said = notes(&job);
    assert!(
        said.contains("checkpoint 2 can't be used: ../escape") && said.contains("goes on from checkpoint 1: "),
        "{said}"
    );

    // Of one that has rotted in the store, nothing is taken either.
    let rotten = kept.platform.state().checkpoints[0].id;
    kept.platform.state().rotten = Some(rotten);
    let job = kept.attempt(3, "ls -A run/ckpt | wc -l");
    let facts = kept.prepare(&job).await.expect("prepared");
    assert!(!facts.contains_key("checkpoint"), "{facts:?}");
    kept.rig.run(&job).await;
    assert_eq!(stdout(&job).trim(), "0");
    assert!(notes(&job).contains("no checkpoint can be had: it begins from the beginning"), "{}", notes(&job));
    let left: Vec<_> = fs::read_dir(&job.dir).expect("there").flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("checkpoint")), "{left:?}");
}

#[tokio::test]
async fn an_agent_that_dies_in_the_middle_of_either_leaves_nothing_half() {
    let mut kept = Kept::new().await;
    let job = kept.attempt(1, "head -c 1000000 /dev/urandom > run/ckpt/big; touch $HOME/saved; exec sleep 600");
    kept.until_it_says(&job, "saved").await;
    kept.platform.state().away_after = Some(4);
    {
        let artifacts = kept.artifacts();
        let mut taking = Box::pin(checkpoints::take(&job, &kept.rig.executor, &artifacts));
        tokio::select! {
            taken = &mut taking => panic!("{taken}"),
            () = until("the store is away", || notes(&job).contains("trying again")) => {}
        }
    }
    let entries =
        || fs::read_dir(&job.dir).expect("there").flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
    assert!(!entries().iter().any(|name| name == "checkpoint"), "{:?}", entries());
    {
        let mut state = kept.platform.state();
        (state.is_away, state.away_after) = (false, None);
    }
    kept.restart();
    let job = Job { checkpoints: Default::default(), ..reopened(job) };
    assert!(kept.take(&job).await, "{}", notes(&job));
    assert_eq!(kept.count(), 1);

    let next = kept.attempt(2, "wc -c < run/ckpt/big");
    kept.platform.state().given_at_most = Some(500_000);
    {
        let mut preparing = Box::pin(kept.prepare(&next));
        tokio::select! {
            prepared = &mut preparing => panic!("{prepared:?}"),
            () = until("the store is away", || notes(&next).contains("trying again")) => {}
        }
    }
    {
        let mut state = kept.platform.state();
        (state.is_away, state.given_at_most) = (false, None);
    }
    kept.restart();
    let next = reopened(next);
    kept.rig.run(&next).await;
    assert_eq!(stdout(&next).trim(), "1000000", "{}", notes(&next));
}

#[tokio::test]
async fn what_a_program_saves_when_it_is_asked_to_stop_is_its_last_checkpoint() {
    let kept = Kept::new().await;
    let command = "trap 'echo last > run/ckpt/step; exit 75' TERM; echo 1 > run/ckpt/step; touch $HOME/on; while :; do sleep 0.05; done";
    let job = kept.attempt(1, command);
    kept.until_it_says(&job, "on").await;
    kept.rig.executor.signal(&job, Signal::Stop).await;
    let exit = within(kept.rig.executor.collect(&job)).await.expect("collected");
    assert_eq!((exit.code, domain::spec::Checkpoints::is_due_at_end(&exit)), (Some(75), true));
    within(checkpoints::take_last(&job, &kept.rig.executor, &kept.artifacts())).await;
    assert_eq!(kept.platform.state().ready()[0].bytes(), packed(&[("step", "last\n")]));
}

#[tokio::test]
async fn a_store_that_stays_away_is_given_up_and_is_no_reason_to_hold_an_attempt_for_ever() {
    let kept = Kept::new().await;
    let job = kept.attempt(1, SAVED);
    kept.until_it_says(&job, "saved").await;
    kept.platform.state().is_away = true;
    let mut artifacts = kept.artifacts();
    artifacts.checkpoint_patience = Duration::from_millis(300);
    assert!(!within(checkpoints::take(&job, &kept.rig.executor, &artifacts)).await, "worth another try soon");
    within(checkpoints::take_last(&job, &kept.rig.executor, &artifacts)).await;
    let said = notes(&job);
    assert!(
        said.contains("no checkpoint could be stored: ") && said.contains("no last checkpoint could be stored: "),
        "{said}"
    );
    kept.platform.state().is_away = false;
    assert!(kept.take(&job).await);
    assert_eq!(kept.count(), 1);
}

#[tokio::test]
async fn what_the_code_has_there_gives_way_to_a_checkpoint_and_a_file_of_it_is_told() {
    let kept = Kept::new().await;
    kept.plant(&packed(&[("step", "1\n")]));
    let body = |path: &str| {
        json!({
            "executor": "process", "command": "ls -A origin; cat origin/step", "checkpoints": {"path": path},
            "source": { "code_repo_url": "https://git.example/lab/x.git", "code_commit_id": "4f0c1d2e3b4a59687706f5e4d3c2b1a098765432" },
        })
    };
    let job = kept.attempt_of(2, body("origin"));
    kept.rig.run(&job).await;
    assert_eq!(stdout(&job), "step\n1\n");
    for (number, path) in [(1, "origin"), (2, "origin/below")] {
        let failure = kept.prepare(&kept.attempt_of(number, body(path))).await.expect_err("a file is there");
        assert_eq!(failure.kind, FailureKind::InputUnavailable, "{}", failure.message);
    }
}

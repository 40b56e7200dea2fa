//! What is kept of a container while it runs, and what the next attempt finds.

use crate::{
    platform::{Platform, packed},
    rig::{Attempt, Rig, docker, until},
};
use api_types::artifact::CreateOutput;
use domain::artifact::ArtifactKind;
use protocol::Stream;
use provider_gateway::{
    artifacts::{checkpoints, outputs},
    container::ContainerExecutor,
    executor::{Executor, Job, Signal},
};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

struct Kept {
    rig: Rig,
    platform: Arc<Platform>,
    environment: String,
}

impl Kept {
    async fn new() -> Self {
        let (mut rig, platform) = (Rig::new(), Platform::start().await);
        let environment = rig.environment("FROM unidesk-test/busybox:latest\n");
        let inputs = platform.inputs(&rig.settings.data_dir.join("inputs.json"), 1 << 40);
        let executor = ContainerExecutor::new(rig.settings.clone(), rig.trees.clone()).unwrap();
        rig.executor = Arc::new(executor.with_inputs(inputs));
        Self { rig, platform, environment }
    }
    fn attempt(&self, number: u32, path: &str, command: &str) -> Attempt {
        self.attempt_with(number, json!({"command": command, "checkpoints": {"path": path}}), &[])
    }
    fn attempt_with(&self, number: u32, body: Value, code: &[(&str, &[u8])]) -> Attempt {
        let attempt = self.rig.job(&self.environment, code, body);
        Attempt { job: Job { number, ..attempt.job.clone() }, ..attempt }
    }
    async fn take(&self, attempt: &Attempt) -> bool {
        checkpoints::take(&attempt.job, &*self.rig.executor, &self.platform.artifacts()).await
    }
    /// Docker tells times in seconds, so what was written a moment ago is not still yet.
    async fn take_once_still(&self, attempt: &Attempt) {
        let began = Instant::now();
        while !self.take(attempt).await {
            assert!(began.elapsed() < Duration::from_secs(60), "{}", attempt.text(Stream::System));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    /// Starts it, and waits until it has made this file.
    async fn until_it_makes(&self, attempt: &Attempt, file: &str) {
        self.rig.executor.prepare(&attempt.job).await.unwrap();
        self.rig.executor.start(&attempt.job).await.unwrap();
        until(file, || docker(&["exec", &attempt.container(), "sh", "-c", &format!("ls {file}")]) == file).await;
    }
    fn count(&self) -> usize {
        self.platform.state().ready().len()
    }
    fn plant(&self, archive: &[u8]) {
        let create = CreateOutput { kind: ArtifactKind::Directory, size: None, file_name: "ckpt".into() };
        self.platform.state().plant(create, archive);
    }
}

#[tokio::test]
async fn the_next_attempt_finds_the_directory_as_it_was_and_may_change_it() {
    let kept = Kept::new().await;
    for path in ["run/ckpt", "/var/lib/ckpt"] {
        let save = "cd $UNIDESK_CHECKPOINT_DIR; mkdir -p deep/empty; echo step 7 > deep/state; ln deep/state same; echo run > tool; chmod 700 tool; \
            ln -s deep/state newest; ln -s /etc/passwd secret; mkfifo pipe; touch /tmp/saved; exec sleep 600";
        let body = |command: &str| json!({"command": command, "user": "1000:1001", "checkpoints": {"path": path}});
        let first = kept.attempt_with(1, body(save), &[]);
        kept.until_it_makes(&first, "/tmp/saved").await;
        let before = kept.count();
        kept.take_once_still(&first).await;
        let said = first.text(Stream::System);
        assert!(said.contains(" is stored: ") && said.contains("pipe is left out: it is a named pipe"), "{said}");
        assert_eq!(
            kept.platform.state().ready()[before].names(),
            ["deep", "deep/empty", "deep/state", "newest", "same", "tool"]
        );
        assert!(kept.take(&first).await, "nothing has changed");
        assert_eq!(kept.count(), before + 1);
        kept.rig.executor.remove(&first.job).await.unwrap();

        let look = "cd $UNIDESK_CHECKPOINT_DIR; cat newest same; [ -x tool ] && [ ! -x same ] && echo modes; stat -c %u:%g . deep deep/state; \
            echo more >> same && rm tool && mv deep other && rmdir other/empty && echo mine";
        let second = kept.attempt_with(2, body(look), &[]);
        let facts = kept.rig.executor.prepare(&second.job).await.unwrap().provenance;
        let stored = kept.platform.state().ready()[before].ready.clone().unwrap();
        assert_eq!(facts["checkpoint"]["sha256"], json!(stored.sha256));
        let exit = kept.rig.run(&second).await.unwrap();
        assert_eq!(
            second.text(Stream::Stdout),
            "step 7\nstep 7\nmodes\n1000:1001\n1000:1001\n1000:1001\nmine\n",
            "{exit:?} {}",
            second.text(Stream::Stderr)
        );
        assert!(second.text(Stream::System).contains("goes on from checkpoint "), "{}", second.text(Stream::System));
        assert!(!second.job.dir.join("checkpoint.fetched").exists());
    }
}

#[tokio::test]
async fn a_directory_that_is_being_written_to_is_left_alone_until_it_is_still() {
    let kept = Kept::new().await;
    // In place and of the same size, so that only times tell.
    let command = "touch /tmp/on; n=0; until [ -e /tmp/stop ]; do n=$(( (n + 1) % 10 )); echo $n > ckpt/state; done; echo x > ckpt/state; exec sleep 600";
    let attempt = kept.attempt(1, "ckpt", command);
    kept.until_it_makes(&attempt, "/tmp/on").await;
    for _ in 0..5 {
        assert!(!kept.take(&attempt).await, "{}", attempt.text(Stream::System));
    }
    assert_eq!(kept.platform.state().checkpoints.len(), 0, "nothing was even announced");
    docker(&["exec", &attempt.container(), "touch", "/tmp/stop"]);
    kept.take_once_still(&attempt).await;
    assert_eq!(kept.platform.state().ready()[0].bytes(), packed(&[("state", "x\n")]));
    // What an attempt began with is not sent again.
    let next = kept.attempt(2, "ckpt", "touch /tmp/on; exec sleep 600");
    kept.until_it_makes(&next, "/tmp/on").await;
    kept.take_once_still(&next).await;
    assert_eq!(kept.count(), 1, "{}", next.text(Stream::System));
}

#[tokio::test]
async fn a_first_attempt_has_an_empty_directory_and_what_can_not_be_kept_is_told_once() {
    let kept = Kept::new().await;
    let command = "ls -A /opt/ckpt; rmdir /opt/ckpt; touch /tmp/gone; until [ -e /tmp/go ]; do sleep 0.1; done; echo x > /opt/ckpt; touch /tmp/file; exec sleep 600";
    let attempt = kept.attempt(1, "/opt/ckpt", command);
    kept.until_it_makes(&attempt, "/tmp/gone").await;
    assert!(kept.take(&attempt).await && kept.take(&attempt).await);
    docker(&["exec", &attempt.container(), "touch", "/tmp/go"]);
    until("it is a file", || docker(&["exec", &attempt.container(), "cat", "/opt/ckpt"]) == "x").await;
    assert!(kept.take(&attempt).await && kept.take(&attempt).await);
    let said = attempt.text(Stream::System);
    for line in ["nothing lies in /opt/ckpt yet", "/opt/ckpt is no directory"] {
        assert_eq!(said.matches(line).count(), 1, "{said}");
    }
    assert_eq!(kept.count(), 0);
}

#[tokio::test]
async fn a_damaged_or_hostile_newest_is_passed_over_and_nothing_of_it_is_left() {
    let kept = Kept::new().await;
    let hostile = {
        let mut archive = tar::Builder::new(Vec::new());
        for name in ["good", "../escape"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, &b"x"[..]).unwrap();
        }
        zstd::encode_all(&archive.into_inner().unwrap()[..], 3).unwrap()
    };
    kept.plant(&packed(&[("step", "1\n")]));
    kept.plant(&hostile);
    // What the code has there stays beside it.
    let body = json!({"command": "ls -A ckpt; cat ckpt/step; ls", "checkpoints": {"path": "ckpt"}});
    let attempt = kept.attempt_with(2, body, &[("ckpt/readme", b"x"), ("ckpt/step", b"0\n")]);
    let exit = kept.rig.run(&attempt).await.unwrap();
    assert_eq!(attempt.text(Stream::Stdout), "readme\nstep\n1\nckpt\n", "{exit:?} {}", attempt.text(Stream::Stderr));
    let said = attempt.text(Stream::System);
    assert!(said.contains("checkpoint 2 can't be used: ../escape"), "{said}");

    let rotten = kept.platform.state().checkpoints[0].id;
    kept.platform.state().rotten = Some(rotten);
    let attempt = kept.attempt(3, "ckpt", "ls -A ckpt | wc -l");
    kept.rig.run(&attempt).await.unwrap();
    assert_eq!(attempt.text(Stream::Stdout).trim(), "0");
    let said = attempt.text(Stream::System);
    assert!(said.contains("no checkpoint can be had: it begins from the beginning"), "{said}");
}

#[tokio::test]
async fn what_a_program_saves_when_it_is_asked_to_stop_is_its_last_checkpoint() {
    let kept = Kept::new().await;
    let command =
        "trap 'echo last > ckpt/step; exit 75' TERM; echo 1 > ckpt/step; touch /tmp/on; while :; do sleep 0.05; done";
    let body = json!({"command": command, "checkpoints": {"path": "ckpt"}, "outputs": [{"path": "ckpt/step", "name": "step", "on": "always"}]});
    let attempt = kept.attempt_with(1, body, &[]);
    kept.until_it_makes(&attempt, "/tmp/on").await;
    kept.rig.executor.signal(&attempt.job, Signal::Stop).await;
    let exit = kept.rig.executor.collect(&attempt.job).await.unwrap();
    assert!(domain::spec::Checkpoints::is_due_at_end(&exit), "{exit:?}");
    checkpoints::take_last(&attempt.job, &*kept.rig.executor, &kept.platform.artifacts()).await;
    assert_eq!(
        kept.platform.state().ready()[0].bytes(),
        packed(&[("step", "last\n")]),
        "{}",
        attempt.text(Stream::System)
    );
    // Outputs go their own way.
    outputs::store(&attempt.job, &*kept.rig.executor, &kept.platform.artifacts(), &exit).await.unwrap();
    assert_eq!(kept.platform.state().outputs[&(attempt.job.held.attempt, 0)].bytes(), b"last\n");
}

#[tokio::test]
async fn a_signal_does_not_wait_for_a_checkpoint_that_is_being_read() {
    let kept = Kept::new().await;
    // Of nothing but holes, and still so much to read that it takes minutes.
    let command = "trap 'exit 75' TERM; truncate -s 200G ckpt/huge; touch -d '2020-01-01 00:00:00' ckpt/huge ckpt; touch /tmp/on; while :; do sleep 0.05; done";
    let attempt = kept.attempt(1, "ckpt", command);
    kept.until_it_makes(&attempt, "/tmp/on").await;
    let mut taking = Box::pin(kept.take(&attempt));
    tokio::select! {
        taken = &mut taking => panic!("{taken} {}", attempt.text(Stream::System)),
        () = tokio::time::sleep(Duration::from_secs(2)) => {}
    }
    let stopping = async {
        kept.rig.executor.signal(&attempt.job, Signal::Stop).await;
        kept.rig.executor.collect(&attempt.job).await
    };
    let (taken, exit) =
        tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(taking, stopping) }).await.unwrap();
    assert!(!taken);
    assert_eq!(exit.unwrap().code, Some(75));
}

//! Exclusive work in containers: it ends by itself, and is as other work until then.

use crate::{
    platform::{Platform, packed},
    rig::{Attempt, Rig, docker, inspect, until},
};
use domain::{artifact::ArtifactKind, lease::Lease};
use protocol::Stream;
use provider_gateway::{
    agent::SELF_FENCED,
    artifacts::outputs,
    container::ContainerExecutor,
    executor::{Executor, JobLease, Signal},
    runtime::boot_millis,
};
use serde_json::json;
use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

const BUSYBOX: &str = "FROM unidesk-test/busybox:latest\n";
const PERIOD_MS: u64 = 6_000;

fn rig() -> Rig {
    Rig::with(|settings| settings.shim = Some(static_shim()))
}

/// The static shim, built anew when its sources have changed.
fn static_shim() -> PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let built = Command::new(format!("{root}/scripts/build-shim.sh")).status();
    assert!(built.expect("the script runs").success());
    let test = std::env::current_exe().expect("this test's path");
    test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps").join("unidesk-shim-static")
}

fn exclusive(mut attempt: Attempt, period_ms: u64) -> Attempt {
    attempt.job.lease = Some(JobLease::new(Lease { period_ms, grace_ms: 1_000 }));
    attempt
}

/// A heartbeat that was sent now is acknowledged.
async fn renew(rig: &Rig, attempt: &Attempt) {
    attempt.job.lease.as_ref().unwrap().renew(boot_millis());
    rig.executor.renew(&attempt.job).await;
}

/// As the agent does it: the lease before the start and right after it.
async fn run(rig: &Rig, attempt: &Attempt) {
    rig.executor.prepare(&attempt.job).await.unwrap();
    start(rig, attempt).await;
}
async fn start(rig: &Rig, attempt: &Attempt) {
    attempt.job.lease.as_ref().unwrap().renew(boot_millis());
    rig.executor.start(&attempt.job).await.unwrap();
    // Not waited for: it is said again until the container surely listens.
    let _ = tokio::time::timeout(Duration::from_millis(800), rig.executor.renew(&attempt.job)).await;
}

#[tokio::test]
async fn without_renewals_a_container_is_dead_in_time_and_with_them_it_lives() {
    let rig = rig();
    assert!(rig.executor.self_fences());
    let environment = rig.environment(BUSYBOX);
    let stubborn = "trap '' TERM; echo begun; while :; do sleep 1; done";
    let frozen = exclusive(rig.shell(&environment, stubborn), PERIOD_MS);
    let renewed = exclusive(rig.shell(&environment, stubborn), PERIOD_MS);
    for attempt in [&frozen, &renewed] {
        rig.executor.prepare(&attempt.job).await.unwrap();
    }
    start(&rig, &frozen).await;
    start(&rig, &renewed).await;
    let exit = {
        let mut ended = std::pin::pin!(rig.executor.collect(&frozen.job));
        loop {
            tokio::select! {
                exit = &mut ended => break exit.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(500)) => renew(&rig, &renewed).await,
            }
        }
    };
    assert_eq!(exit.code, Some(SELF_FENCED), "{exit:?}");
    assert!((PERIOD_MS / 2..PERIOD_MS + 5_000).contains(&exit.duration_ms), "{exit:?}");
    assert_eq!(frozen.text(Stream::Stdout), "begun\n");
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        renew(&rig, &renewed).await;
    }
    assert_eq!(inspect(&renewed.container())["State"]["Running"], true);
    let (exit, ()) = tokio::join!(rig.executor.collect(&renewed.job), rig.executor.signal(&renewed.job, Signal::Kill));
    assert_eq!(exit.unwrap().signal, Some(9));
    let label = format!("label=unidesk.shim={}", rig.settings.instance);
    assert_eq!(docker(&["volume", "ls", "-q", "--filter", &label]).lines().count(), 1, "one volume for all");
    assert_eq!(docker(&["ps", "-aq", "--filter", &label]), "", "what filled it is gone");
}

#[tokio::test]
async fn nothing_begins_without_a_lease() {
    let rig = rig();
    let attempt = exclusive(rig.shell(&rig.environment(BUSYBOX), "echo begun"), 2_000);
    rig.executor.prepare(&attempt.job).await.unwrap();
    // Of a heartbeat of long ago.
    attempt.job.lease.as_ref().unwrap().renew(boot_millis().saturating_sub(2_100));
    rig.executor.start(&attempt.job).await.unwrap();
    rig.executor.renew(&attempt.job).await;
    let exit = rig.executor.collect(&attempt.job).await.unwrap();
    assert_eq!((exit.code, attempt.text(Stream::Stdout).as_str()), (Some(SELF_FENCED), ""));
}

#[tokio::test]
async fn streams_exit_codes_signals_and_zombies_are_as_in_other_containers() {
    let rig = rig();
    let environment = rig.environment(BUSYBOX);
    let run_line = async |line: &str| {
        let attempt = exclusive(rig.shell(&environment, line), 60_000);
        run(&rig, &attempt).await;
        let exit = rig.executor.collect(&attempt.job).await.unwrap();
        (exit, attempt)
    };
    let line = "printf 'a\\000b\\377\\r\\n'; printf 'no end' >&2; cat | wc -c; echo $UNIDESK_FENCE; id -u; pwd; exit 3";
    let (exit, attempt) = run_line(line).await;
    assert_eq!((exit.code, exit.signal), (Some(3), None));
    assert_eq!(attempt.log.bytes(Stream::Stdout), b"a\0b\xff\r\n0\n7\n0\n/workspace\n");
    assert_eq!(attempt.log.bytes(Stream::Stderr), b"no end");
    let (exit, _) = run_line("kill -KILL $$").await;
    assert_eq!((exit.code, exit.signal), (Some(137), Some(9)));
    // Orphans that end are waited for by the first process.
    let (exit, attempt) =
        run_line("(sleep 0.1 & sleep 0.1 &); sleep 1; grep -l '^State:.Z' /proc/[0-9]*/status; true").await;
    assert_eq!((exit.code, attempt.text(Stream::Stdout).as_str()), (Some(0), ""));
    // What is inside can't prolong its own lease, and the first process does not die of what is sent from inside.
    let (exit, _) = run_line("kill -KILL 1; kill -STOP 1; exit 5").await;
    assert_eq!(exit.code, Some(5));

    for (command, code, note) in [("nosuch", 127, "not found in the image"), ("/etc", 126, "could not be executed")] {
        let attempt = exclusive(rig.job(&environment, &[], json!({"command": [command]})), 60_000);
        run(&rig, &attempt).await;
        let exit = rig.executor.collect(&attempt.job).await.unwrap();
        assert_eq!(exit.code, Some(code), "{command}");
        assert!(attempt.text(Stream::System).contains(note), "{}", attempt.text(Stream::System));
    }

    // The stop signal reaches the program, which may take its time.
    let attempt = exclusive(
        rig.shell(&environment, "trap 'echo asked; exit 9' TERM; echo up; while :; do sleep 0.1; done"),
        60_000,
    );
    run(&rig, &attempt).await;
    let (exit, ()) = tokio::join!(rig.executor.collect(&attempt.job), async {
        until("it is up", || attempt.text(Stream::Stdout).contains("up")).await;
        rig.executor.signal(&attempt.job, Signal::Stop).await;
    });
    assert_eq!((exit.unwrap().code, attempt.text(Stream::Stdout).as_str()), (Some(9), "up\nasked\n"));
}

#[tokio::test]
async fn inputs_and_outputs_are_as_in_other_containers() {
    let mut rig = rig();
    let platform = Platform::start().await;
    let executor = ContainerExecutor::new(rig.settings.clone(), rig.trees.clone()).unwrap();
    let inputs = platform.inputs(&rig.settings.data_dir.join("inputs.json"), 1 << 40);
    rig.executor = Arc::new(executor.with_inputs(inputs));
    let line = "cat /data/set/a/b in/one; touch /data/set/new; echo x > in/one; mkdir out && cat in/one > out/copy";
    let task = json!({
        "command": line,
        "inputs": [{"artifact": "set@3", "path": "/data/set"}, {"artifact": "one@3", "path": "in/one"}],
        "outputs": [{"path": "out/copy", "name": "copy"}],
    });
    let attempt = exclusive(rig.job(&rig.environment(BUSYBOX), &[], task), 60_000);
    let contents = vec![
        (ArtifactKind::Directory, "set", packed(&[("a/b", "first ")])),
        (ArtifactKind::File, "one", b"second\n".to_vec()),
    ];
    let attempt = Attempt { job: platform.pin(attempt.job.clone(), contents), ..attempt };
    run(&rig, &attempt).await;
    let exit = rig.executor.collect(&attempt.job).await.unwrap();
    assert_eq!(attempt.text(Stream::Stdout), "first second\n", "{exit:?} {}", attempt.text(Stream::Stderr));
    assert_eq!(attempt.text(Stream::Stderr).matches("Read-only file system").count(), 2);
    outputs::store(&attempt.job, &*rig.executor, &platform.artifacts(), &exit).await.unwrap();
    let stored = platform.state().outputs[&(attempt.job.held.attempt, 0)].bytes();
    assert_eq!(stored, b"second\n");
}

#[tokio::test]
async fn the_images_own_command_and_user_are_kept() {
    let rig = rig();
    let environment = rig.environment(
        "FROM unidesk-test/busybox:latest\nUSER 1234:1235\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"id -u; exit 4\"]\n",
    );
    for (more, code, text) in [(json!({}), 4, "1234\n"), (json!({"command": ["id -g"]}), 0, "1235\n")] {
        let attempt = exclusive(rig.job(&environment, &[], more), 60_000);
        run(&rig, &attempt).await;
        let exit = rig.executor.collect(&attempt.job).await.unwrap();
        assert_eq!((exit.code, attempt.text(Stream::Stdout).as_str()), (Some(code), text));
    }
}

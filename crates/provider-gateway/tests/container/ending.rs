use crate::rig::{Rig, until};
use domain::outcome::FailureKind;
use protocol::Stream;
use provider_gateway::executor::{Executor, Signal};
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn every_end_is_told_as_what_it_was() {
    let rig = Rig::new();
    let environment = rig.environment("FROM unidesk-test/busybox:latest\n");

    let crashed = rig.shell(&environment, "sh -c 'kill -SEGV $$'; exit $?");
    let exit = rig.run(&crashed).await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom), (Some(139), Some(11), false));

    let greedy =
        rig.job(&environment, &[], json!({"command": ["tail", "/dev/zero"], "requirements": {"memory": "16MiB"}}));
    let exit = rig.run(&greedy).await.unwrap();
    assert_eq!((exit.oom, exit.failure()), (true, Some(FailureKind::OutOfMemory)), "{exit:?}");

    let missing = rig.job(&environment, &[], json!({"command": ["nosuch-program", "x"]}));
    let exit = rig.run(&missing).await.unwrap();
    assert_eq!((exit.code, exit.failure()), (Some(127), Some(FailureKind::ExitNonzero)));
    let told = missing.text(Stream::System);
    assert!(told.contains("the program \"nosuch-program\" was not found in the image (exit code 127)"), "{told}");

    let forbidden = rig.job(&environment, &[], json!({"command": ["/etc/passwd"]}));
    let exit = rig.run(&forbidden).await.unwrap();
    assert!(matches!(exit.code, Some(126 | 127)), "{exit:?} {}", forbidden.text(Stream::Stderr));
}

#[tokio::test]
async fn a_stop_is_asked_for_with_the_tasks_own_signal_and_a_kill_is_final() {
    let rig = Rig::new();
    let environment = rig.environment("FROM unidesk-test/busybox:latest\n");
    let polite = rig.job(
        &environment,
        &[],
        json!({
            "command": "trap 'echo saved; exit 5' INT; trap '' TERM; echo ready; while :; do sleep 0.1; done",
            "stop": {"signal": "SIGINT", "grace": "5s"},
        }),
    );
    rig.executor.prepare(&polite.job).await.unwrap();
    rig.executor.start(&polite.job).await.unwrap();
    let (exit, ()) = tokio::join!(rig.executor.collect(&polite.job), async {
        until("it is ready", || polite.text(Stream::Stdout).contains("ready")).await;
        rig.executor.signal(&polite.job, Signal::Stop).await;
    });
    assert_eq!((exit.unwrap().code, polite.text(Stream::Stdout).as_str()), (Some(5), "ready\nsaved\n"));
    // It has ended: nothing more to do, and quickly.
    let began = Instant::now();
    rig.executor.signal(&polite.job, Signal::Kill).await;
    assert!(began.elapsed() < Duration::from_secs(5));

    let stubborn = rig.shell(&environment, "trap '' TERM INT; (trap '' TERM; sleep 4377) & echo ready; wait");
    rig.executor.prepare(&stubborn.job).await.unwrap();
    rig.executor.start(&stubborn.job).await.unwrap();
    let (exit, ()) = tokio::join!(rig.executor.collect(&stubborn.job), async {
        until("it is ready", || stubborn.text(Stream::Stdout).contains("ready")).await;
        rig.executor.signal(&stubborn.job, Signal::Stop).await;
        rig.executor.signal(&stubborn.job, Signal::Kill).await;
    });
    let exit = exit.unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom), (Some(137), Some(9), false));
    until("its child is gone too", || !crate::rig::is_running("sleep 4377")).await;
}

use crate::rig::{Rig, is_running, until};
use domain::outcome::FailureKind;
use futures::future::join_all;
use protocol::Stream;
use provider_gateway::{container::Builder, executor::Executor};

#[tokio::test]
async fn a_failed_build_says_where_and_whose_fault_it_is() {
    for builder in [Builder::Auto, Builder::Classic] {
        let rig = Rig::with(|settings| settings.builder = builder);
        let fails = async |dockerfile: &str| {
            let attempt = rig.shell(&rig.environment(dockerfile), "true");
            let failure = rig.executor.prepare(&attempt.job).await.unwrap_err();
            (failure.kind, failure.message)
        };
        let (kind, message) = fails(
            "FROM unidesk-test/busybox:latest\n# why\nRUN echo looking && \\\n    echo no such library && exit 7\n",
        )
        .await;
        assert_eq!(kind, FailureKind::BuildFailed);
        for words in ["env/Dockerfile", "line 3", "step 2/2", "exit code 7", "no such library"] {
            assert!(message.contains(words), "{words}: {message}");
        }
        let (kind, message) = fails("FROM unidesk-test/busybox:latest\nRUM x\n").await;
        assert_eq!(kind, FailureKind::BuildFailed);
        assert!(message.contains("unknown instruction: RUM") && message.contains("line 2"), "{message}");
        let (kind, message) = fails("FROM 127.0.0.1:9/nosuch/image:1\n").await;
        assert_eq!(kind, FailureKind::NodeError);
        assert!(message.contains("connection refused"), "{message}");
        let (kind, message) = fails("FROM unidesk-test/busybox:latest\nCOPY nowhere.txt /\n").await;
        assert_eq!(kind, FailureKind::BuildFailed);
        assert!(message.contains("nowhere.txt"), "{message}");
    }
}

#[tokio::test]
async fn a_long_build_with_a_cache_mount_and_a_syntax_line_needs_no_network() {
    let rig = Rig::new();
    let id = uuid::Uuid::new_v4();
    let dockerfile = |name: &str, seconds: u32| {
        format!(
            "# syntax=docker/dockerfile:1\nFROM unidesk-test/busybox:latest\n\
             RUN --mount=type=cache,target=/cache,id={id} echo {name} >> /cache/seen; sleep {seconds}; cp /cache/seen /seen\n"
        )
    };
    let first = rig.shell(&rig.environment(&dockerfile("first", 16)), "cat /seen");
    assert_eq!(rig.run(&first).await.unwrap().code, Some(0));
    assert_eq!(first.text(Stream::Stdout), "first\n");
    assert!(first.text(Stream::Build).contains("`# syntax=` line is not followed"));
    let second = rig.shell(&rig.environment(&dockerfile("second", 0)), "cat /seen");
    assert_eq!(rig.run(&second).await.unwrap().code, Some(0));
    assert_eq!(second.text(Stream::Stdout), "first\nsecond\n");
}

#[tokio::test]
async fn an_image_is_built_once_for_all_who_want_it() {
    let rig = Rig::new();
    let nonce = uuid::Uuid::new_v4();
    let environment = rig
        .environment(&format!("FROM unidesk-test/busybox:latest\nRUN sleep 2; echo once {nonce} > /once; echo told\n"));
    let attempts: Vec<_> = (0..3).map(|_| rig.shell(&environment, "cat /once")).collect();
    let prepared = join_all(attempts.iter().map(|attempt| rig.executor.prepare(&attempt.job))).await;
    let facts: Vec<_> = prepared.into_iter().map(|one| one.unwrap().provenance).collect();
    assert_eq!(facts.iter().filter(|one| one["image"]["warm"] == false).count(), 1);
    assert!(facts.iter().all(|one| one["image"]["id"] == facts[0]["image"]["id"]));
    for (attempt, facts) in attempts.iter().zip(&facts) {
        assert!(attempt.text(Stream::Build).contains("told\n"), "{}", attempt.text(Stream::Build));
        let waited = attempt.text(Stream::System).contains("waiting for the build of the same image by task");
        assert_eq!(waited, facts["image"]["warm"] == true);
    }

    // A build that fails fails for all who waited for it, once.
    let environment =
        rig.environment(&format!("FROM unidesk-test/busybox:latest\nRUN sleep 1; echo {nonce}; exit 6\n"));
    let attempts: Vec<_> = (0..3).map(|_| rig.shell(&environment, "true")).collect();
    let began = std::time::Instant::now();
    let failed = join_all(attempts.iter().map(|attempt| rig.executor.prepare(&attempt.job))).await;
    assert!(failed.iter().all(|one| one.as_ref().is_err_and(|failure| failure.message.contains("exit code 6"))));
    assert!(began.elapsed().as_millis() < 2_900, "built more than once: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_cancelled_build_stops_and_a_waiter_goes_on_with_it() {
    for builder in [Builder::Auto, Builder::Classic] {
        let rig = Rig::with(|settings| settings.builder = builder);
        let seconds = if builder == Builder::Auto { "86.25" } else { "86.75" };
        let sleeper = format!("sleep {seconds}");
        let environment = rig.environment(&format!("FROM unidesk-test/busybox:latest\nRUN {sleeper}\n"));
        let [first, second] = [(); 2].map(|()| rig.shell(&environment, "true"));
        let mut building = rig.executor.prepare(&first.job);
        tokio::select! {
            _ = &mut building => panic!("it sleeps for long"),
            () = until("the step runs", || is_running(&sleeper)) => {}
        }
        let mut waiting = rig.executor.prepare(&second.job);
        tokio::select! {
            _ = &mut building => panic!("it sleeps for long"),
            _ = &mut waiting => panic!("it waits"),
            () = until("the second waits", || second.text(Stream::System).contains("waiting for the build")) => {}
        }
        assert!(!second.text(Stream::System).contains("is warm"));
        drop(building);
        // The second attempt builds now, in a step of its own; then it is cancelled too and nothing is left.
        tokio::select! {
            _ = &mut waiting => panic!("it sleeps for long"),
            () = until("the second builds", || second.text(Stream::Build).contains("sleep 86")) => {}
        }
        drop(waiting);
        drop(rig);
        until("the step is gone", || !is_running(&sleeper)).await;
    }
}

#[tokio::test]
async fn a_base_image_behind_a_token_is_pulled_for_buildkit() {
    let registry = crate::registry::Registry::start().await;
    let base = format!("{}/lab/base", registry.address);
    let mut rig = Rig::new();
    // A cache mount: the classic builder could not do it.
    let dockerfile = format!("FROM {base}:1\nRUN --mount=type=cache,target=/cache echo made > /made\n");
    let prepared_attempt = rig.shell(&rig.environment(&dockerfile), "cat /made");
    let prepared = rig.executor.prepare(&prepared_attempt.job).await.unwrap();
    assert_eq!(prepared.provenance["image"]["builder"], "buildkit");
    let bases = &prepared.provenance["image"]["bases"];
    assert!(bases[format!("{base}:1")].as_str().unwrap().contains("@sha256:"), "{bases}");
    assert!(prepared_attempt.text(Stream::Build).contains(&format!("=> pulling {base}:1")));

    let attempt = rig.shell(&rig.environment(&format!("FROM {base}:nope\n")), "true");
    let failure = rig.executor.prepare(&attempt.job).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::BuildFailed);
    assert!(failure.message.contains("manifest unknown") && failure.message.contains(":nope"), "{}", failure.message);

    // It was pulled by this installation, so it goes when room is needed, and for no other that used it too.
    let crowded = |settings: &mut provider_gateway::container::Settings| {
        let marks = &mut settings.disk.marks;
        (marks.high_percent, marks.low_percent, marks.full_percent, marks.recent_s) = (1, 0, 101, 0);
        settings.disk.data_root = Some("/".into());
    };
    let others = Rig::with(crowded);
    let other = others.shell(&others.environment(&format!("FROM {base}:1\nRUN echo other\n")), "true");
    others.executor.prepare(&other.job).await.unwrap();
    others.executor.remove(&other.job).await.unwrap();
    let name = format!("{base}:1");
    assert!(!others.executor.collect_garbage().await.removed_images.contains(&name));
    rig.restart(crowded);
    rig.executor.remove(&attempt.job).await.unwrap();
    rig.executor.remove(&prepared_attempt.job).await.unwrap();
    // The same image under another name may be in use by a test beside this one, and what is in use stays.
    let began = std::time::Instant::now();
    while !rig.executor.collect_garbage().await.removed_images.contains(&name) {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "{name} is never removed");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

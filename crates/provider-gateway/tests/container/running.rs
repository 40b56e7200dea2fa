use crate::rig::{Rig, docker, inspect};
use domain::outcome::FailureKind;
use protocol::Stream;
use provider_gateway::executor::{Executor, Signal};
use serde_json::json;

const BUSYBOX: &str = "FROM unidesk-test/busybox:latest\n";

#[tokio::test]
async fn a_task_runs_in_its_environment_and_every_byte_of_its_output_comes_back() {
    let rig = Rig::new();
    // New each time, or the builder's cache would have nothing to say.
    let nonce = uuid::Uuid::new_v4();
    let environment = rig.environment(&format!(
        "FROM unidesk-test/busybox:latest\nCOPY env/extra.txt /extra.txt\nRUN : {nonce}; echo built-with-$(cat /extra.txt)\n",
    ));
    let script = b"#!/bin/sh\nprintf 'a\\000b\\377\\376\\rc\\r\\n'; printf 'no end' >&2\n\
        head -c 10485760 /dev/zero | tr '\\000' x; echo; echo $GREETING $UNIDESK_ATTEMPT $1; pwd; exit 3\n";
    let first = rig.job(
        &environment,
        &[("bin/run.sh", script)],
        json!({"command": ["./bin/run.sh", "two words"], "env": {"GREETING": "hello"}}),
    );
    let prepared = rig.executor.prepare(&first.job).await.unwrap();
    assert!(first.text(Stream::Build).contains("built-with-from the context"), "{}", first.text(Stream::Build));
    let facts = &prepared.provenance;
    assert_eq!(facts["image"]["warm"], false);
    assert_eq!(facts["image"]["builder"], "buildkit");
    assert_eq!(facts["image"]["steps"], 3);
    assert!(
        facts["image"]["bases"]["unidesk-test/busybox:latest"].as_str().unwrap().starts_with("sha256:"),
        "{facts:?}"
    );
    assert!(facts["image"]["size_bytes"].as_u64().unwrap() > 1_000_000);
    assert_eq!(facts["environment"]["dockerfile_sha256"].as_str().unwrap().len(), 64);
    assert!(facts["code"]["tree"].as_str().unwrap().starts_with("tree-of-"));

    rig.executor.start(&first.job).await.unwrap();
    let exit = rig.executor.collect(&first.job).await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.failure()), (Some(3), None, Some(FailureKind::ExitNonzero)));
    assert!(exit.ended_at.unwrap() >= exit.started_at.unwrap());
    let mut expected = b"a\0b\xff\xfe\rc\r\n".to_vec();
    expected.extend(std::iter::repeat_n(b'x', 10 << 20));
    expected.extend(b"\nhello 1 two words\n/workspace\n");
    let stdout = first.log.bytes(Stream::Stdout);
    assert_eq!(stdout.len(), expected.len());
    assert!(stdout == expected, "stdout differs");
    assert_eq!(first.log.bytes(Stream::Stderr), b"no end");

    // The same environment again: nothing is built, and what it was is still known.
    let second = rig.shell(&environment, "true");
    let again = rig.executor.prepare(&second.job).await.unwrap();
    assert_eq!(again.provenance["image"]["warm"], true);
    assert_eq!(again.provenance["image"]["id"], facts["image"]["id"]);
    assert_eq!(again.provenance["environment"]["tree"], facts["environment"]["tree"]);
    assert_eq!(again.provenance["environment"]["dockerfile_sha256"], facts["environment"]["dockerfile_sha256"]);
    assert_eq!(second.text(Stream::Build), "");
    let key = domain::warm::environment_key(first.job.spec.source.environment.as_ref().unwrap());
    assert_eq!(rig.executor.warm(), [key]);

    rig.executor.remove(&first.job).await.unwrap();
    rig.executor.remove(&first.job).await.unwrap();
    assert_eq!(docker(&["ps", "-aq", "--filter", &format!("name={}", first.container())]), "");
    assert_eq!(rig.executor.inventory().await.unwrap(), [second.job.held.attempt]);
}

#[tokio::test]
async fn a_container_has_its_limits_and_no_more_power_than_it_needs() {
    let rig = Rig::new();
    let environment = rig.environment(BUSYBOX);
    let line = "grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status; id -u; ls /var/run/docker.sock; sleep 60";
    let attempt = rig.job(
        &environment,
        &[],
        json!({"command": line, "network": "none", "requirements": {"memory": "48MiB", "cpu_cores": 0.5, "shm": "8MiB"}}),
    );
    rig.executor.prepare(&attempt.job).await.unwrap();
    let seen = inspect(&attempt.container());
    let host = &seen["HostConfig"];
    assert_eq!(host["Memory"], 48 << 20);
    assert_eq!(host["MemorySwap"], 48 << 20);
    assert_eq!(host["NanoCpus"], 500_000_000);
    assert_eq!(host["ShmSize"], 8 << 20);
    assert_eq!(host["PidsLimit"], 4_096);
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert!(!host["CapAdd"].to_string().contains("SYS_ADMIN") && !host["CapAdd"].to_string().contains("NET_RAW"));
    assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]));
    assert_eq!(host["Init"], true);
    assert_eq!(host["NetworkMode"], "none");
    assert_eq!((&host["Privileged"], &host["AutoRemove"]), (&json!(false), &json!(false)));
    assert_eq!((&host["PidMode"], &host["UTSMode"], &host["IpcMode"]), (&json!(""), &json!(""), &json!("private")));
    assert!(
        host["Binds"].is_null() && host["Mounts"].is_null() && host["Devices"].as_array().is_none_or(Vec::is_empty)
    );
    assert_eq!(host["LogConfig"]["Type"], "local");
    assert_eq!(host["LogConfig"]["Config"]["max-file"], "1");
    let labels = &seen["Config"]["Labels"];
    assert_eq!(labels["unidesk.task"], attempt.job.task.to_string());
    assert_eq!(labels["unidesk.fence"], "7");

    rig.executor.start(&attempt.job).await.unwrap();
    let (collected, ()) = tokio::join!(rig.executor.collect(&attempt.job), async {
        crate::rig::until("it has printed", || attempt.text(Stream::Stderr).contains("docker.sock")).await;
        rig.executor.signal(&attempt.job, Signal::Kill).await;
    });
    assert_eq!(collected.unwrap().signal, Some(9));
    let status = attempt.text(Stream::Stdout);
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID.
    assert!(status.contains("CapBnd:\t00000000000000fb"), "{status}");
}

#[tokio::test]
async fn the_code_belongs_to_the_images_user() {
    let rig = Rig::new();
    let environment = rig.environment(
        "FROM unidesk-test/busybox:latest\n\
         RUN mkdir -p /etc && echo 'ana:x:1234:1235::/:/bin/sh' >> /etc/passwd && echo 'lab:x:77:' >> /etc/group\n\
         USER ana\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"id -u; id -g; touch /workspace/new && ls -ln /workspace\"]\n",
    );
    // No command: the image's own ENTRYPOINT and CMD.
    let attempt = rig.job(&environment, &[("data.txt", b"x")], json!({}));
    let exit = rig.run(&attempt).await.unwrap();
    let listing = attempt.text(Stream::Stdout);
    assert_eq!(exit.code, Some(0), "{listing} {}", attempt.text(Stream::Stderr));
    assert!(listing.starts_with("1234\n1235\n"), "{listing}");
    assert_eq!(listing.matches("1234     1235").count(), 2, "{listing}");

    // A user of the task's own; and a working directory that the code does not have.
    let attempt = rig.job(
        &environment,
        &[],
        json!({"command": ["id -g; touch made-here"], "user": "4321:lab", "workdir": "/workspace/deep/er"}),
    );
    let exit = rig.run(&attempt).await.unwrap();
    assert_eq!(
        (exit.code, attempt.text(Stream::Stdout).as_str()),
        (Some(0), "77\n"),
        "{}",
        attempt.text(Stream::Stderr)
    );

    let attempt = rig.job(&environment, &[], json!({"command": ["true"], "user": "nobody-here"}));
    let failure = rig.run(&attempt).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::ExitNonzero);
    assert!(failure.message.contains("has no user \"nobody-here\""), "{}", failure.message);
}

#[tokio::test]
async fn containers_run_side_by_side_and_a_silent_one_is_waited_for() {
    let rig = Rig::new();
    let environment = rig.environment(BUSYBOX);
    let attempts: Vec<_> = (0..4).map(|n| rig.shell(&environment, &format!("sleep 3; echo {n}; exit {n}"))).collect();
    let ends = futures::future::join_all(attempts.iter().map(|attempt| rig.run(attempt))).await;
    for (n, (end, attempt)) in ends.into_iter().zip(&attempts).enumerate() {
        let exit = end.unwrap();
        assert_eq!(exit.code, Some(n as i32));
        assert_eq!(attempt.text(Stream::Stdout), format!("{n}\n"));
        assert!(exit.cpu_ms.is_some() && exit.peak_memory_bytes.is_some_and(|bytes| bytes > 0), "{exit:?}");
        assert!((2_900..30_000).contains(&exit.duration_ms), "{exit:?}");
    }
}

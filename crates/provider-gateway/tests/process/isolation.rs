//! What a process gets to see of the machine and of others.

use crate::kit::*;
use domain::outcome::FailureKind;
use provider_gateway::executor::Executor;
use serde_json::json;
use std::collections::BTreeMap;

#[tokio::test]
async fn the_environment_holds_what_was_given_and_nothing_of_the_agents() {
    let rig = Rig::new();
    let mut job = rig.job_of(json!({ "command": ["env", "-0"], "env": { "GREETING": "a=b\nc", "LANG": "de_DE" } }));
    job.gpu_ids = vec!["GPU-1".into(), "GPU-2".into()];
    rig.run(&job).await;
    let out = stdout(&job);
    let env: BTreeMap<&str, &str> = out.split_terminator('\0').filter_map(|entry| entry.split_once('=')).collect();
    let names: Vec<&str> = env.keys().copied().collect();
    assert_eq!(
        names,
        [
            "CUDA_VISIBLE_DEVICES",
            "GREETING",
            "HOME",
            "LANG",
            "LOGNAME",
            "NVIDIA_VISIBLE_DEVICES",
            "PATH",
            "TMPDIR",
            "UNIDESK_ATTEMPT",
            "UNIDESK_ATTEMPT_ID",
            "UNIDESK_FENCE",
            "UNIDESK_TASK_ID",
            "USER",
        ]
    );
    assert_eq!((env["GREETING"], env["LANG"], env["UNIDESK_FENCE"]), ("a=b\nc", "de_DE", "7"));
    assert_eq!((env["CUDA_VISIBLE_DEVICES"], env["NVIDIA_VISIBLE_DEVICES"]), ("GPU-1,GPU-2", "GPU-1,GPU-2"));
}

#[tokio::test]
async fn without_a_reservation_no_gpu_is_seen() {
    let rig = Rig::new();
    let line = "echo \"[$CUDA_VISIBLE_DEVICES] $NVIDIA_VISIBLE_DEVICES\"";
    let job = rig.job_of(json!({ "command": line, "env": { "CUDA_VISIBLE_DEVICES": "0" } }));
    rig.run(&job).await;
    assert_eq!(stdout(&job), "[] void\n");
}

#[tokio::test]
async fn arguments_are_never_given_to_a_shell() {
    let (_, out) = Rig::new().run_command(json!(["echo", "$(id)", "; id", "*", "a  b"])).await;
    assert_eq!(out, "$(id) ; id * a  b\n");
}

#[tokio::test]
async fn as_root_each_attempt_has_an_unprivileged_user_of_its_own() {
    let rig = Rig::new();
    let line =
        "id -u; id -g; id -G; grep NoNewPrivs /proc/self/status; touch mine $TMPDIR/mine && echo wrote; ls ../shim";
    let users = [rig.run_command(json!(line)).await.1, rig.run_command(json!(line)).await.1];
    let first_lines = |text: &str| text.lines().take(3).map(str::to_owned).collect::<Vec<_>>();
    for text in &users {
        assert!(text.contains("NoNewPrivs:\t1") && text.contains("wrote"), "{text}");
        let ids = first_lines(text);
        if is_root() {
            assert!(ids[0].parse::<u32>().expect("a number") > 1_000_000, "{text}");
            assert!(ids[0] == ids[1] && ids[1] == ids[2], "no other groups: {text}");
            assert!(!text.contains("supervisor"), "the supervisor's files are closed: {text}");
        } else {
            assert_eq!(ids[0], nix::unistd::geteuid().to_string());
        }
    }
    assert_eq!(first_lines(&users[0]) != first_lines(&users[1]), is_root());
}

#[tokio::test]
async fn a_data_directory_that_is_closed_to_others_still_serves() {
    use std::{fs, os::unix::fs::PermissionsExt};
    let rig = Rig::new();
    let job = rig.job(json!("pwd && touch here && cat here $TMPDIR/../work/here && echo fine"));
    fs::set_permissions(&rig.settings.data_dir, fs::Permissions::from_mode(0o700)).expect("closed");
    assert_eq!(rig.run(&job).await.code, Some(0));
    let text = stdout(&job);
    assert!(text.ends_with("fine\n"), "{text}");
    let scratch = std::path::PathBuf::from(text.lines().next().expect("a path"));
    rig.executor.remove(&job).await.expect("removed");
    assert!(!scratch.exists() && !scratch.parent().is_some_and(|parent| parent.exists() && is_root()));
}

#[tokio::test]
async fn nothing_of_the_agents_is_open_in_the_process() {
    let open = tempfile::tempfile().expect("a file of the agent");
    let (_, out) = Rig::new().run_command(json!("ls /proc/self/fd; ulimit -c; readlink /proc/self/fd/0")).await;
    drop(open);
    // The last descriptor is the directory that ls reads.
    assert_eq!(out, "0\n1\n2\n3\n0\n/dev/null\n");
}

#[tokio::test]
async fn a_task_without_network_has_only_itself_to_talk_to() {
    let rig = Rig::new();
    let job = rig.job_of(json!({ "command": "tail -n +3 /proc/net/dev | cut -d: -f1", "network": "none" }));
    if !is_root() {
        assert_eq!(rig.executor.validate(&job.spec).expect_err("it can't be kept").kind, FailureKind::Rejected);
        return;
    }
    rig.run(&job).await;
    assert_eq!(stdout(&job).trim(), "lo");
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_before_anything_runs() {
    let rig = Rig::new();
    for (body, word) in [
        (json!({ "command": ["true"], "workdir": "/srv/data" }), "/workspace"),
        (json!({ "command": ["true"], "user": "1000" }), "user"),
    ] {
        let refusal = rig.executor.validate(&rig.job_of(body).spec).expect_err("refused");
        assert_eq!(refusal.kind, FailureKind::Rejected);
        assert!(refusal.message.contains(word), "{}", refusal.message);
    }
}

//! Keys of people and tokens of nodes: wrong, expired, revoked.

use crate::{
    programs::{Program, provider},
    story::{self, Stories},
    task::Body,
    until::until,
    world::{SOON, World},
};
use api_types::{access::CreateApiKey, artifact::CreateOutput};
use client::Client;
use domain::{
    artifact::ArtifactKind,
    ids::{Fence, Held},
    node::Presence,
    principal::Role,
    task::TaskState,
};
use std::time::Duration;
use tokio::time::Instant;

/// Revocation is noticed everywhere within this.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_does_not_hold_is_refused_in_words_that_say_what_to_do() {
    let world = World::start().await;
    let url = world.platform().url.clone();
    let ask = async |token: &str| story::problem_of(Client::new(&url, token).expect("a client").who_am_i().await);
    let wanted = CreateApiKey { name: "ana".into(), role: Role::Viewer, project: None, expires_in_days: None };
    let ana = world.client.create_api_key(&wanted).await.expect("a key");
    let mut mistyped = ana.key.clone();
    let last = mistyped.pop().expect("not empty");
    mistyped.push(if last == 'A' { 'B' } else { 'A' });

    let mut stories = Stories::default();
    stories.tell("no key", &story::of_problem(&ask("").await));
    stories.tell("not a key", &story::of_problem(&ask("hunter2").await));
    stories.tell("a mistyped key", &story::of_problem(&ask(&mistyped).await));
    let as_ana = Client::new(&url, &ana.key).expect("a client");
    assert_eq!(as_ana.who_am_i().await.expect("it holds").name, "ana");
    let forbidden = as_ana.submit(&Body::process("true").0, None).await;
    stories.tell("a viewer who runs a task", &story::of_problem(&story::problem_of(forbidden)));
    let short_lived = as_ana.exchange_token(&ana.key).await.expect("a token");
    assert_eq!(
        Client::new(&url, &short_lived.access_token).expect("a client").who_am_i().await.expect("it holds").name,
        "ana"
    );
    let forged = format!("{}x", short_lived.access_token);
    stories.tell("a forged token", &story::of_problem(&ask(&forged).await));

    world.client.revoke_api_key(ana.id).await.expect("it may be revoked");
    let revoked = async |token: &str| {
        until("the revoked key is refused", REVOKED_WITHIN, async || {
            match Client::new(&url, token).expect("a client").who_am_i().await {
                Err(client::ClientError::Problem(problem)) => Some(*problem),
                _ => None,
            }
        })
        .await
    };
    stories.tell("a revoked key", &story::of_problem(&revoked(&ana.key).await));
    stories.tell("a token made of a revoked key", &story::of_problem(&revoked(&short_lived.access_token).await));
    stories.assert("keys");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_is_cut_off_at_once_and_its_work_goes_elsewhere() {
    let world = World::start().await;
    let created = world.client.create_node_token("other").await.expect("a token");
    let dir = world.home.path().join("other");
    std::fs::create_dir_all(&dir).expect("made");
    // These tests may run in a container, where an agent leaves processes alone unless its owner allows them.
    std::fs::write(dir.join("policy.toml"), "executors = ['container', 'process']\n").expect("written");
    let mut other = Program::start(provider(&world.platform().url, &created.token, &dir)).await;
    let node = world.client.node(created.node_id).await.expect("a node");
    assert_eq!((node.name.as_str(), node.presence), ("other", Presence::Connected));
    let sleeper = Body::process("echo here; sleep 600");
    let there = world.submit(&sleeper.clone().with("requirements.node", "other")).await;
    let here = world.submit(&sleeper.with("requirements.node", "local")).await;
    world.log_until(there.id, "here\n").await;
    world.log_until(here.id, "here\n").await;

    let began = Instant::now();
    world.client.revoke_node_token(created.id, true).await.expect("it may be revoked");
    other.until_said("not connected", REVOKED_WITHIN).await;
    println!("a revoked node's session ended after {:?}", began.elapsed());
    assert!(world.client.node(created.node_id).await.is_err(), "it is a node no more");
    other.until_said("The token of node other was revoked", SOON).await;

    // What ran there waits for another node; the one that may run nowhere else says so.
    let stuck = world.task_until(there.id, "it waits again", |task| task.state == TaskState::Pending).await;
    story::assert_story("revoked_node", &story::of_why(&world.why(stuck.id).await));
    for id in [there.id, here.id] {
        world.client.cancel(id).await.expect("it may be cancelled");
        assert_eq!(world.ended(id).await.state, TaskState::Cancelled);
    }
    other.stop().await;
    world.node_until("nothing is reserved", |node| node.tasks == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_moves_the_files_of_one_attempt_and_opens_nothing_else() {
    let world = World::start().await;
    let url = world.platform().url.clone();
    let word = |error: client::ClientError| error.problem().map(|problem| problem.word().to_owned());
    let key = async |name: &str, role| {
        let wanted = CreateApiKey { name: name.into(), role, project: None, expires_in_days: None };
        let key = world.client.create_api_key(&wanted).await.expect("a key");
        (key.id, Client::new(&url, &key.key).expect("a client"))
    };
    let (robot_id, robot) = key("robot", Role::Admin).await;
    let (_, member) = key("ana", Role::Member).await;
    let body = Body::process("echo up; exec sleep 600")
        .with("outputs", serde_json::json!([{"path": "out", "name": "result", "on": "always"}]));
    let (id, other) = (world.submit(&body).await.id, world.submit(&body).await.id);
    for id in [id, other] {
        world.log_until(id, "up\n").await;
    }

    assert_eq!(member.attempt_credential(id).await.map_err(word), Err(Some("not-permitted".into())));
    let credential = robot.attempt_credential(id).await.expect("a credential");
    let left = credential.expires_at - chrono::Utc::now();
    assert!(left.num_minutes() <= 15 && left.num_minutes() >= 14, "{left}");
    let held_by = async |id| {
        let task = world.client.task(id).await.expect("a task");
        let attempt = task.attempts.as_deref().and_then(<[_]>::last).expect("an attempt");
        Held { attempt: attempt.id, fence: Fence::from_i64(attempt.fence) }
    };
    let (mine, others) = (held_by(id).await, held_by(other).await);
    assert!(credential.path.ends_with(&format!("/{}/{}", mine.attempt, mine.fence)), "{}", credential.path);

    let holder = Client::new(&url, &credential.token).expect("a client");
    let output = CreateOutput { kind: ArtifactKind::File, size: Some(0), file_name: "out".into() };
    let upload = holder.attempt_output(mine, 0, &output).await.expect("announced, as by its node");
    assert_eq!(upload.artifact.name, "result");
    let refused = holder.attempt_output(others, 0, &output).await.map(drop).map_err(word);
    assert_eq!(refused, Err(Some("not-permitted".into())), "another attempt");
    let refused = holder.who_am_i().await.map(drop).map_err(word);
    assert_eq!(refused, Err(Some("not-authenticated".into())), "people's routes");
    let refused = member.attempt_output(mine, 0, &output).await.map(drop).map_err(word);
    assert_eq!(refused, Err(Some("not-authenticated".into())), "an API key is no credential of an attempt");

    world.client.cancel(id).await.expect("cancelled");
    world.ended(id).await;
    let refused = holder.attempt_output(mine, 0, &output).await.map(drop).map_err(word);
    assert!(matches!(refused.as_ref().map_err(Option::as_deref), Err(Some("already-ended" | "fenced"))), "{refused:?}");
    assert_eq!(robot.attempt_credential(id).await.map_err(word), Err(Some("already-ended".into())));

    // With the key that asked for it goes the credential.
    let credential = robot.attempt_credential(other).await.expect("a credential");
    let holder = Client::new(&url, &credential.token).expect("a client");
    holder.attempt_output(others, 0, &output).await.expect("announced");
    world.client.revoke_api_key(robot_id).await.expect("revoked");
    until("the credential is worth nothing", REVOKED_WITHIN, async || {
        holder
            .attempt_output(others, 0, &output)
            .await
            .is_err_and(|error| error.is_problem("not-authenticated"))
            .then_some(())
    })
    .await;
    world.client.cancel(other).await.expect("cancelled");
    world.ended(other).await;
    world.finish().await;
}

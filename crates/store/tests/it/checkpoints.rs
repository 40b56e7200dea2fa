//! What tasks keep while they run: taken by whoever holds the task, the newest of them kept, and removed once nobody goes on from them.

use crate::{
    outputs::{NO_GRACE, by, new_artifact, nothing_is_broken, object, reads, state_of, store_output, submit},
    world::{Node, World, failed, new_task, origin, succeeded},
};
use domain::{
    artifact::{ArtifactKind, ArtifactState},
    ids::{ArtifactId, TaskId},
    outcome::FailureKind,
    principal::Scope,
    retention::RetentionRule,
    spec::CHECKPOINTS_KEPT,
};
use serde_json::{Value, json};
use std::time::Duration;
use store::{
    ArtifactObject, ArtifactView, CompletedArtifact, Holder, NewArtifact, RemovedArtifact, Retried, Submitted,
};
use test_kit::statements::Statements;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3_600);

fn keeps() -> Value {
    json!({"checkpoints": {"path": "ckpt"}})
}

async fn begin(world: &World, who: Holder) -> Option<ArtifactView> {
    let Some(task) = world.store.held_task(who).await.expect("read") else {
        let new = new_artifact("checkpoint-of-nothing");
        return world
            .store
            .begin_checkpoint(who, &new, (origin().principal.id, "ana"), NO_GRACE)
            .await
            .expect("answered");
    };
    let new = NewArtifact { kind: ArtifactKind::Directory, ..new_artifact(&format!("checkpoint-{}", task.id)) };
    world.store.begin_checkpoint(who, &new, (task.created_by, "ana"), NO_GRACE).await.expect("answered")
}

async fn complete(world: &World, who: Holder, checkpoint: ArtifactId, seed: u8) -> Option<CompletedArtifact> {
    let stored = object(world, checkpoint, seed).await;
    world.store.complete_checkpoint(who, checkpoint, &stored, NO_GRACE, &origin()).await.expect("answered")
}

/// Begun and completed, with content of its own.
async fn take(world: &World, who: Holder, seed: u8) -> ArtifactView {
    let begun = begin(world, who).await.expect("held");
    match complete(world, who, begun.id, seed).await {
        Some(CompletedArtifact::Ready(ready)) => ready,
        other => panic!("{other:?}"),
    }
}

/// The versions of those from which the task's next attempt goes on.
async fn versions(world: &World, task: TaskId) -> Vec<u32> {
    let newest = world.store.newest_checkpoints(task, CHECKPOINTS_KEPT).await.expect("read");
    newest.iter().map(|it| it.version.expect("ready")).collect()
}

async fn remove(world: &World, checkpoint: ArtifactId) -> RemovedArtifact {
    world.store.remove_artifact(checkpoint, NO_GRACE, &origin()).await.expect("answered")
}

/// A walk over all of them, one in each step. How many were removed.
async fn walk(world: &World, kept_for: Duration) -> u64 {
    let (mut after, mut expired) = (None, 0);
    loop {
        let walked = world.store.expire_checkpoints(after, kept_for, NO_GRACE, 1, &origin()).await.expect("walked");
        expired += walked.expired;
        match walked.next {
            Some(next) => after = Some(next),
            None => return expired,
        }
    }
}

async fn rot(world: &World, checkpoint: &ArtifactView) {
    let objects = world.store.objects_after(uuid::Uuid::nil(), 100).await.expect("read");
    let object: &ArtifactObject = objects.iter().find(|it| Some(it.id) == checkpoint.object).expect("its object");
    assert_eq!(world.store.mark_corrupt(object, "other bytes", &origin()).await.expect("marked"), 1);
}

/// Running on this node.
async fn running(world: &World, node: Node) -> (TaskId, Holder) {
    let task = world.submit(keeps()).await;
    (task, by(node, world.start_on(task, node).await))
}

#[tokio::test]
async fn a_task_keeps_its_two_newest_checkpoints_whichever_attempt_took_them() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let (task, first) = running(&world, node).await;
    assert_eq!(versions(&world, task).await, [0; 0]);
    let mut taken = Vec::new();
    for seed in 1..=3 {
        taken.push(take(&world, first, seed).await);
    }
    let (name, kind) = (format!("checkpoint-{task}"), ArtifactKind::Directory);
    assert_eq!((&taken[2].name, taken[2].kind, taken[2].created_by.as_str()), (&name, kind, "ana"));
    assert_eq!(versions(&world, task).await, [3, 2]);
    assert_eq!(state_of(&world, taken[0].id).await, ArtifactState::Expired);

    // A damaged one is none, and makes room with the next.
    rot(&world, &taken[2]).await;
    assert_eq!(versions(&world, task).await, [2]);
    world.lose(node).await;
    let second = by(other, world.place(task, other).await);
    taken.push(take(&world, second, 4).await);
    assert_eq!(versions(&world, task).await, [4, 2]);
    assert_eq!(state_of(&world, taken[2].id).await, ArtifactState::Expired);

    // They are nobody's outputs, and no output is one of them.
    let output = store_output(&world, second, 0).await.expect("held");
    let attempts = [first.held.attempt, second.held.attempt];
    let outputs = world.store.outputs_of(&attempts).await.expect("read");
    assert_eq!(outputs.iter().map(|it| it.id).collect::<Vec<_>>(), [output.id]);
    assert_eq!(world.task(task).await.attempts[1].row.outputs_stored, 1);
    assert_eq!(world.store.checkpoint(second.held.attempt, output.id).await.expect("read"), None);
    assert_eq!(world.store.checkpoint(first.held.attempt, taken[3].id).await.expect("read"), None, "not its own");
    assert_eq!(world.store.output(second.held.attempt, 1).await.expect("read"), None);

    // As long as the task lives, neither people nor rules remove one; what is pinned stays beside the newest.
    match remove(&world, taken[3].id).await {
        RemovedArtifact::InUse { tasks, .. } => assert_eq!(tasks, [task]),
        other => panic!("{other:?}"),
    }
    let all = [RetentionRule { keep_last: Some(0), ..RetentionRule::default() }];
    let by_rule = world.store.expire_by_rules(taken[3].id, &all, NO_GRACE, &origin()).await.expect("judged");
    assert!(!by_rule, "it is spared");
    assert_eq!(walk(&world, Duration::ZERO).await, 0);
    world.store.pin_artifact(taken[1].id, true, &origin()).await.expect("pinned");
    for seed in 5..=6 {
        taken.push(take(&world, second, seed).await);
    }
    assert_eq!(versions(&world, task).await, [6, 5]);
    let states = [state_of(&world, taken[1].id).await, state_of(&world, taken[3].id).await];
    assert_eq!(states, [ArtifactState::Ready, ArtifactState::Expired]);
    nothing_is_broken(&world).await;
}

#[tokio::test]
async fn a_checkpoint_that_is_begun_again_gives_up_the_one_before() {
    let world = World::start().await;
    let node = world.node("n").await;
    let (task, who) = running(&world, node).await;
    let (_, beside) = running(&world, node).await;
    let elsewhere = begin(&world, beside).await.expect("held");
    let first = begin(&world, who).await.expect("held");
    let second = begin(&world, who).await.expect("held");
    assert_ne!(first.id, second.id, "what was uploaded is of another moment");
    assert_eq!(state_of(&world, first.id).await, ArtifactState::Expired);
    assert_eq!(state_of(&world, elsewhere.id).await, ArtifactState::Uploading, "another task's");
    assert!(matches!(complete(&world, who, first.id, 1).await, Some(CompletedArtifact::Ended(_))));
    // Nobody else completes it, whatever may be done to artifacts.
    let stored = object(&world, second.id, 2).await;
    let by_hand = world.store.complete_artifact(second.id, &stored, NO_GRACE, &origin()).await.expect("answered");
    assert!(matches!(by_hand, CompletedArtifact::Ended(_)), "{by_hand:?}");
    for _ in 0..2 {
        match complete(&world, who, second.id, 2).await {
            Some(CompletedArtifact::Ready(ready)) => assert_eq!((ready.id, ready.version), (second.id, Some(1))),
            other => panic!("{other:?}"),
        }
    }
    // The one that is ready is left alone by the next that begins.
    begin(&world, who).await.expect("held");
    assert_eq!(versions(&world, task).await, [1]);
    nothing_is_broken(&world).await;
}

#[tokio::test]
async fn who_does_not_hold_the_task_takes_no_checkpoint() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let (task, first) = running(&world, node).await;
    let upload = begin(&world, first).await.expect("held");
    let stranger = by(other, first.held);
    assert!(begin(&world, stranger).await.is_none());
    assert!(complete(&world, stranger, upload.id, 1).await.is_none());
    assert_eq!(world.store.expire_uploads_of_ended_attempts(NO_GRACE).await.expect("looked"), 0, "it lives");

    world.lose(node).await;
    let second = by(other, world.place(task, other).await);
    assert!(complete(&world, first, upload.id, 1).await.is_none(), "fenced in the middle of its upload");
    assert!(begin(&world, first).await.is_none());
    let mine = take(&world, second, 2).await;
    assert_eq!(state_of(&world, upload.id).await, ArtifactState::Uploading, "the collector takes it");
    assert_eq!(world.store.expire_uploads_of_ended_attempts(NO_GRACE).await.expect("looked"), 1);
    let unfinished = begin(&world, second).await.expect("held");
    world.report(other, second.held, failed(FailureKind::ExitNonzero)).await;
    assert!(complete(&world, second, unfinished.id, 3).await.is_none());
    assert_eq!(world.store.expire_uploads_of_ended_attempts(NO_GRACE).await.expect("looked"), 1);
    let newest = world.store.newest_checkpoints(task, CHECKPOINTS_KEPT).await.expect("read");
    assert_eq!(newest.iter().map(|it| it.id).collect::<Vec<_>>(), [mine.id]);
    nothing_is_broken(&world).await;
}

#[tokio::test]
async fn checkpoints_go_with_a_success_and_wait_a_week_for_whoever_runs_a_failure_again() {
    let world = World::start().await;
    let node = world.node("n").await;
    let mut ran = Vec::new();
    for seed in 0..4 {
        let (task, who) = running(&world, node).await;
        for version in 1..=2 {
            take(&world, who, 10 * seed + version).await;
        }
        ran.push((task, who));
    }
    let [(done, done_by), (broken, broken_by), (again, again_by), (live, _)] = ran[..] else { panic!("four") };
    let pinned = world.store.newest_checkpoints(broken, 1).await.expect("read").remove(0);
    world.store.pin_artifact(pinned.id, true, &origin()).await.expect("pinned");
    world.report(node, done_by.held, succeeded()).await;
    for who in [broken_by, again_by] {
        world.report(node, who.held, failed(FailureKind::ExitNonzero)).await;
    }
    assert_eq!(walk(&world, WEEK).await, 2);
    assert_eq!(versions(&world, done).await, [0; 0]);
    assert_eq!((versions(&world, broken).await, versions(&world, again).await), (vec![2, 1], vec![2, 1]));

    // Whoever runs it again goes on from there, and so they are kept once more.
    assert_eq!(world.store.retry_task(Scope::All, again, &origin()).await.expect("answered"), Retried::Queued);
    // A week later.
    assert_eq!(walk(&world, Duration::ZERO).await, 1);
    assert_eq!(versions(&world, broken).await, [2], "it is pinned");
    assert_eq!((versions(&world, again).await, versions(&world, live).await), (vec![2, 1], vec![2, 1]));
    let kept = world.store.newest_checkpoints(again, 1).await.expect("read").remove(0);
    assert!(matches!(remove(&world, kept.id).await, RemovedArtifact::InUse { tasks, .. } if tasks == [again]));
    let who = by(node, world.start_on(again, node).await);
    assert_eq!(take(&world, who, 99).await.version, Some(3));
    assert_eq!(versions(&world, again).await, [3, 2]);

    // What another task reads outlives the one that took it.
    let Submitted::Accepted { id: reader } = submit(&world, reads(&kept, new_task(json!({})))).await else {
        panic!("new")
    };
    world.report(node, who.held, succeeded()).await;
    assert_eq!(walk(&world, WEEK).await, 1);
    assert_eq!(versions(&world, again).await, [2]);
    world.store.cancel_task(Scope::All, reader, &origin()).await.expect("cancelled");
    assert_eq!(walk(&world, WEEK).await, 1);
    let told = "SELECT count(*) FROM audit WHERE action = 'artifact.expire'";
    assert_eq!(world.count(told).await, 5);
    nothing_is_broken(&world).await;
}

#[tokio::test]
async fn checkpoints_of_a_task_that_was_deleted_go_too() {
    let world = World::start().await;
    let node = world.node("n").await;
    let (task, who) = running(&world, node).await;
    take(&world, who, 1).await;
    let begun = begin(&world, who).await.expect("held");
    world.report(node, who.held, failed(FailureKind::ExitNonzero)).await;
    world.report(node, who.held, domain::attempt::Report::Released).await;
    let in_a_moment = chrono::TimeDelta::seconds(-1);
    assert_eq!(world.store.expire_tasks(in_a_moment, None, 10).await.expect("deleted").deleted, 1);
    assert_eq!(walk(&world, WEEK).await, 1);
    assert_eq!(world.store.expire_uploads_of_ended_attempts(NO_GRACE).await.expect("looked"), 1);
    assert_eq!(versions(&world, task).await, [0; 0]);
    assert_eq!(state_of(&world, begun.id).await, ArtifactState::Expired);
    nothing_is_broken(&world).await;
}

#[tokio::test]
async fn of_a_checkpoint_and_a_rule_that_removes_it_at_one_moment_nobody_waits_for_ever() {
    let world = World::start().await;
    let node = world.node("n").await;
    let (task, who) = running(&world, node).await;
    let all = [RetentionRule { keep_last: Some(0), ..RetentionRule::default() }];
    let (mut oldest, mut older) = (take(&world, who, 0).await.id, take(&world, who, 1).await.id);
    for seed in 2..=12 {
        let begun = begin(&world, who).await.expect("held");
        let moment = Duration::from_micros(u64::from(seed) * 300);
        let (taken, by_rule) = tokio::join!(complete(&world, who, begun.id, seed), async {
            tokio::time::sleep(moment).await;
            world.store.expire_by_rules(oldest, &all, NO_GRACE, &origin()).await.expect("judged")
        });
        assert!(matches!(taken, Some(CompletedArtifact::Ready(_))) && !by_rule, "{taken:?}, {by_rule}");
        (oldest, older) = (older, begun.id);
    }
    assert_eq!(versions(&world, task).await, [13, 12]);
    nothing_is_broken(&world).await;
}

#[tokio::test]
async fn what_a_checkpoint_costs_does_not_grow_with_those_before_it() {
    let world = World::start().await;
    let node = world.node("n").await;
    // Of what is known to be empty each index seems the same to the planner, and a plan of then is kept while the table grows.
    world.database.execute("VACUUM ANALYZE").await;
    let (task, who) = running(&world, node).await;
    for seed in 0..8 {
        take(&world, who, seed).await;
        versions(&world, task).await;
        walk(&world, WEEK).await;
        world.store.outputs_of(&[who.held.attempt]).await.expect("read");
    }
    // A month of one every two minutes, of this attempt; and those that thousands of others keep.
    let many = format!(
        "CREATE TEMP TABLE one AS SELECT * FROM artifacts WHERE state = 'ready' LIMIT 1;
         CREATE TEMP TABLE old AS SELECT o.* FROM one o, generate_series(2, 20000);
         UPDATE old SET id = gen_random_uuid(), version = NULL, state = 'deleted', is_dropped = true;
         INSERT INTO artifacts SELECT * FROM old;
         CREATE TEMP TABLE others AS SELECT o.* FROM one o, generate_series(1, 20000);
         UPDATE others SET id = gen_random_uuid(), checkpoint_of = gen_random_uuid(), attempt_id = gen_random_uuid();
         UPDATE others SET name = 'checkpoint-' || checkpoint_of;
         INSERT INTO artifacts SELECT * FROM others;
         CREATE TEMP TABLE hot AS SELECT o.checkpoint_of, s.* FROM others o, task_state s;
         UPDATE hot SET task_id = checkpoint_of; ALTER TABLE hot DROP COLUMN checkpoint_of; INSERT INTO task_state SELECT * FROM hot;
         UPDATE artifact_names SET newest = 20000 WHERE name = 'checkpoint-{task}'; DROP TABLE one, old, others, hot"
    );
    world.database.execute(&many).await;
    let mut statements = Statements::of(&world.database).await;
    statements.forget().await;
    for seed in 2..=8 {
        begin(&world, who).await.expect("held");
        take(&world, who, seed).await;
        versions(&world, task).await;
        let walked =
            world.store.expire_checkpoints(Some((task, 0)), WEEK, NO_GRACE, 50, &origin()).await.expect("walked");
        assert_eq!(walked.expired, 0);
    }
    // Beside so many checkpoints its outputs are found as before.
    store_output(&world, who, 0).await.expect("held");
    assert_eq!(world.store.outputs_of(&[who.held.attempt]).await.expect("read").len(), 1);
    let costs = statements.costs().await;
    let dear: Vec<_> = costs.into_iter().filter(|cost| cost.buffers > 500).collect();
    assert!(dear.is_empty(), "{dear:#?}");
    assert_eq!(versions(&world, task).await, [20_007, 20_006]);
}

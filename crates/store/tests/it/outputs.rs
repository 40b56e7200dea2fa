//! What tasks read and what they leave: pinned once, stored by whoever holds the task and by nobody else.

use crate::world::{Node, World, exited, failed, hello, keyed, new_task, origin, succeeded};
use domain::{
    artifact::{ArtifactKind, ArtifactRef, ArtifactState, Sha256Digest},
    attempt::{AttemptState, Report},
    ids::{ArtifactId, AttemptId, DEFAULT_PROJECT, Fence, Held, PrincipalId, ProjectId, TaskId},
    outcome::{ExitFacts, FailureKind},
    principal::Scope,
    spec::PinnedArtifact,
    task::TaskState,
};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};
use store::{
    ArtifactView, CompletedArtifact, Depth, Holder, NewArtifact, NewTask, NotHeld, RemovedArtifact, ReportVerdict,
    Reserved, Retried, StoredObject, Submitted,
};
use test_kit::statements::Statements;
use uuid::Uuid;

pub(crate) const NO_GRACE: Duration = Duration::ZERO;

pub(crate) fn new_artifact(name: &str) -> NewArtifact {
    NewArtifact {
        project: DEFAULT_PROJECT,
        name: name.into(),
        kind: ArtifactKind::File,
        size: Some(7),
        media_type: "application/octet-stream".into(),
        file_name: name.into(),
        labels: BTreeMap::new(),
        pinned: false,
        part_size: 8 << 20,
        least_part: None,
        key: format!("objects/{}", Uuid::new_v4()),
        idempotency: None,
    }
}

/// What the object store has at the place of this upload; other content for other seeds.
pub(crate) async fn object(world: &World, artifact: ArtifactId, seed: u8) -> StoredObject {
    let upload = world.store.upload(artifact).await.expect("read");
    let key = upload.map_or_else(|| "objects/gone".to_owned(), |(place, _)| place.key);
    StoredObject {
        key,
        size: 7,
        sha256: Sha256Digest([seed; 32]),
        parts_digest: Sha256Digest([seed; 32]),
        parts: Vec::new(),
    }
}

/// A person puts an artifact in.
pub(crate) async fn put(world: &World, name: &str, seed: u8) -> ArtifactView {
    let reserved = world.store.reserve_artifact(&new_artifact(name), &origin().principal).await.expect("reserved");
    let Reserved::New(artifact) = reserved else { panic!("{reserved:?}") };
    let stored = object(world, artifact.id, seed).await;
    match world.store.complete_artifact(artifact.id, &stored, NO_GRACE, &origin()).await.expect("completed") {
        CompletedArtifact::Ready(ready) => ready,
        other => panic!("{other:?}"),
    }
}

async fn begin(world: &World, who: Holder, index: u32, new: &NewArtifact) -> Option<ArtifactView> {
    let by = (origin().principal.id, "ana");
    world.store.begin_output(who, index, new, by, NO_GRACE).await.expect("answered")
}

/// Both steps of an output. None: the node does not hold the task.
pub(crate) async fn store_output(world: &World, who: Holder, index: u32) -> Option<ArtifactView> {
    let begun = begin(world, who, index, &new_artifact(&format!("o{index}"))).await?;
    complete(world, who, begun.id).await
}

async fn complete(world: &World, who: Holder, artifact: ArtifactId) -> Option<ArtifactView> {
    let stored = object(world, artifact, 1).await;
    let completed = world.store.complete_output(who, artifact, &stored, NO_GRACE, &origin()).await;
    match completed.expect("answered")? {
        CompletedArtifact::Ready(ready) => Some(ready),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn by(node: Node, held: Held) -> Holder {
    Holder { node: node.id, held }
}

fn owes(outputs_due: u32) -> Report {
    Report::Exited { exit: ExitFacts { code: Some(0), outputs_due, ..ExitFacts::default() } }
}

async fn outputs_stored(world: &World, task: TaskId) -> u32 {
    world.task(task).await.attempts.last().expect("an attempt").row.outputs_stored
}

pub(crate) async fn state_of(world: &World, artifact: ArtifactId) -> ArtifactState {
    let name = ArtifactRef::Id(artifact);
    world.store.find_artifact(Scope::All, DEFAULT_PROJECT, &name).await.expect("read").expect("there").state
}

pub(crate) async fn nothing_is_broken(world: &World) {
    let findings = world.store.audit(Depth::Whole, Duration::from_secs(20)).await.expect("audited");
    let broken: Vec<_> = findings.into_iter().filter(|finding| finding.outcome.count() > 0).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[tokio::test]
async fn a_name_is_pinned_to_what_it_means_in_its_project() {
    let world = World::start().await;
    let (first, second) = (put(&world, "data", 1).await, put(&world, "data", 2).await);
    let reserved = world.store.reserve_artifact(&new_artifact("data"), &origin().principal).await.expect("reserved");
    let Reserved::New(uploading) = reserved else { panic!("{reserved:?}") };
    let digest = Sha256Digest([1; 32]);
    let of = |name: ArtifactRef| (DEFAULT_PROJECT, name);
    let latest = || ArtifactRef::Latest("data".into());
    let elsewhere = ProjectId::from_uuid(Uuid::from_u128(404));
    let asked = [
        of(latest()),
        of(ArtifactRef::Version("data".into(), 1)),
        of(ArtifactRef::Digest(digest)),
        of(ArtifactRef::Id(second.id)),
        of(ArtifactRef::Version("data".into(), 3)),
        of(ArtifactRef::Version("data".into(), u32::MAX)),
        of(ArtifactRef::Id(uploading.id)),
        of(ArtifactRef::Latest("nothing".into())),
        (elsewhere, latest()),
        (elsewhere, ArtifactRef::Id(second.id)),
    ];
    let pinned = world.store.pin_inputs(&asked).await.expect("looked up");
    let ids: Vec<_> = pinned.iter().map(|it| it.as_ref().map(|it| it.id)).collect();
    let there = [Some(second.id), Some(first.id), Some(first.id), Some(second.id)];
    assert_eq!(ids, [&there[..], &[None; 6]].concat());
    let expected = PinnedArtifact {
        id: first.id,
        name: "data".into(),
        version: 1,
        kind: ArtifactKind::File,
        size: 7,
        sha256: digest,
    };
    assert_eq!(pinned[1], Some(expected));
    // More than one statement asks for, and each answer in its place.
    let many: Vec<_> =
        (0..150).map(|n| of(if n == 100 { latest() } else { ArtifactRef::Latest(format!("x{n}")) })).collect();
    let pinned = world.store.pin_inputs(&many).await.expect("looked up");
    assert!(pinned.iter().enumerate().all(|(n, it)| it.is_some() == (n == 100)));
}

#[tokio::test]
async fn an_output_is_one_upload_however_often_it_is_begun() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let who = by(node, world.start_on(task, node).await);
    let model = new_artifact("model");
    let first = begin(&world, who, 0, &model).await.expect("held");
    assert_eq!((first.state, first.attempt), (ArtifactState::Uploading, Some(who.held.attempt)));
    assert_eq!(begin(&world, who, 0, &model).await.expect("held").id, first.id);
    // Announced as something else: what was uploaded of it is given up.
    let other = NewArtifact { size: Some(8), ..new_artifact("model") };
    let second = begin(&world, who, 0, &other).await.expect("held");
    assert_ne!(second.id, first.id);
    assert_eq!(state_of(&world, first.id).await, ArtifactState::Expired);
    // Nobody else completes it, whatever may be done to artifacts.
    let stored = object(&world, second.id, 1).await;
    let by_hand = world.store.complete_artifact(second.id, &stored, NO_GRACE, &origin()).await.expect("answered");
    assert!(matches!(by_hand, CompletedArtifact::Ended(_)), "{by_hand:?}");
    let ready = complete(&world, who, second.id).await.expect("held");
    assert_eq!((ready.version, ready.created_by.as_str()), (Some(1), "ana"));
    assert_eq!(outputs_stored(&world, task).await, 1);
    // The answers were lost: the same ones again, and it counts once.
    assert_eq!(begin(&world, who, 0, &model).await.expect("held").id, second.id);
    assert_eq!(complete(&world, who, second.id).await.expect("held").id, second.id);
    assert_eq!(outputs_stored(&world, task).await, 1);
    // One that its user has removed meanwhile was stored all the same.
    let removed = world.store.remove_artifact(second.id, NO_GRACE, &origin()).await.expect("answered");
    assert!(matches!(removed, RemovedArtifact::Removed(_)), "{removed:?}");
    assert_ne!(store_output(&world, who, 0).await.expect("held").id, second.id);
    assert_eq!(outputs_stored(&world, task).await, 1);
    let last = store_output(&world, who, 1).await.expect("held");
    assert_eq!(outputs_stored(&world, task).await, 2);
    assert_eq!(world.report(node, who.held, owes(2)).await, ReportVerdict::Recorded);
    assert_eq!(world.report(node, who.held, succeeded()).await, ReportVerdict::Recorded);
    assert_eq!(world.state(task).await, TaskState::Succeeded);
    let outputs = world.store.outputs_of(&[who.held.attempt]).await.expect("read");
    assert_eq!(outputs.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["o0", "o1"]);
    assert_eq!(outputs[1].id, last.id);
    nothing_is_broken(&world).await;
}

#[tokio::test]
async fn who_does_not_hold_the_task_stores_nothing() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    let upload = begin(&world, by(node, held), 0, &new_artifact("model")).await.expect("held");
    let stale = Held { fence: Fence::from_i64(held.fence.get() - 1), ..held };
    for who in [by(other, held), by(node, stale)] {
        assert!(world.store.held_task(who).await.expect("read").is_none());
        assert!(begin(&world, who, 0, &new_artifact("model")).await.is_none());
        assert!(complete(&world, who, upload.id).await.is_none());
    }
    assert!(world.store.held_task(by(node, held)).await.expect("read").is_some_and(|it| it.id == task));
    assert_eq!(world.store.expire_uploads_of_ended_attempts(NO_GRACE).await.expect("looked"), 0, "it lives");

    // Its node falls silent, and it is placed again.
    world.lose(node).await;
    assert!(begin(&world, by(node, held), 0, &new_artifact("model")).await.is_some(), "nobody else has it yet");
    let second = by(other, world.place(task, other).await);
    assert!(complete(&world, by(node, held), upload.id).await.is_none(), "fenced in the middle of its upload");
    assert!(begin(&world, by(node, held), 1, &new_artifact("more")).await.is_none());
    assert_eq!(state_of(&world, upload.id).await, ArtifactState::Uploading);
    let mine = begin(&world, second, 0, &new_artifact("model")).await.expect("held");
    assert_ne!(mine.id, upload.id, "each attempt uploads by itself");
    assert_eq!(world.store.expire_uploads_of_ended_attempts(NO_GRACE).await.expect("looked"), 1);
    assert_eq!(state_of(&world, upload.id).await, ArtifactState::Expired);
    assert_eq!(complete(&world, second, mine.id).await.expect("held").version, Some(1));

    let why = async |who| world.store.why_not_held(who).await.expect("read");
    assert_eq!((why(by(node, held)).await, why(by(other, held)).await), (NotHeld::Fenced, NotHeld::Fenced));
    // Once it has ended it leaves nothing more.
    let unfinished = begin(&world, second, 1, &new_artifact("more")).await.expect("held");
    world.report(other, second.held, failed(FailureKind::ExitNonzero)).await;
    assert_eq!((why(second).await, why(by(node, second.held)).await), (NotHeld::Ended, NotHeld::Fenced));
    assert!(complete(&world, second, unfinished.id).await.is_none());
    assert_eq!(world.store.expire_uploads_of_ended_attempts(NO_GRACE).await.expect("looked"), 1);
    nothing_is_broken(&world).await;
}

#[tokio::test]
async fn what_a_restore_has_forgotten_is_waited_for_until_its_node_is_heard() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    let forgotten = by(node, Held { attempt: AttemptId::from_uuid(Uuid::now_v7()), ..held });
    let why = async |who| world.store.why_not_held(who).await.expect("read");
    assert_eq!(why(forgotten).await, NotHeld::Fenced, "nobody was restored, so there never was one");
    // As a restore leaves it.
    world.database.execute("UPDATE cluster SET epoch = epoch + 1, restored_at = now()").await;
    world.database.execute("UPDATE node_live SET connected_since = NULL").await;
    assert_eq!(why(forgotten).await, NotHeld::NotYet);
    world.store.open_session(&hello(node.id, node.instance, &[held])).await.expect("opened");
    assert_eq!(why(forgotten).await, NotHeld::Forgotten);
    let stale = by(node, Held { fence: Fence::from_i64(held.fence.get() - 1), ..held });
    assert_eq!(why(stale).await, NotHeld::Fenced, "this one is known");
    assert!(world.store.held_task(by(node, held)).await.expect("read").is_some(), "and holds its task");
}

#[tokio::test]
async fn outputs_that_went_with_their_node_are_made_again() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let task = world.submit(json!({})).await;
    let first = by(node, world.start_on(task, node).await);
    world.report(node, first.held, owes(2)).await;
    let half = store_output(&world, first, 0).await.expect("held");
    let unfinished = begin(&world, first, 1, &new_artifact("o1")).await.expect("held");
    assert_eq!(world.state(task).await, TaskState::Finishing);
    world.lose(node).await;
    assert!(world.task(task).await.view.queued, "it waits to be run again");
    assert_eq!(world.replace().await, 0, "and is looked at no more");
    let second = by(other, world.place(task, other).await);
    assert!(complete(&world, first, unfinished.id).await.is_none());
    world.report(other, second.held, owes(2)).await;
    for index in 0..2 {
        store_output(&world, second, index).await.expect("held");
    }
    world.report(other, second.held, succeeded()).await;
    assert_eq!(world.state(task).await, TaskState::Succeeded);
    // What the first has stored stays, behind what is newer.
    let attempts = [second.held.attempt, first.held.attempt];
    let outputs = world.store.outputs_of(&attempts).await.expect("read");
    let told: Vec<_> = outputs.iter().map(|it| (it.name.as_str(), it.version)).collect();
    assert_eq!(told, [("o0", Some(2)), ("o1", Some(1)), ("o0", Some(1))]);
    assert_eq!(outputs[2].id, half.id);
    nothing_is_broken(&world).await;
}

#[tokio::test]
async fn a_lost_node_whose_outputs_are_stored_ends_its_task() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    // All of them before it was called lost.
    let task = world.submit(json!({})).await;
    let who = by(node, world.start_on(task, node).await);
    world.report(node, who.held, owes(1)).await;
    store_output(&world, who, 0).await.expect("held");
    world.lose(node).await;
    assert_eq!(world.state(task).await, TaskState::Succeeded);
    // The last one while the task waited already to be run again: it is not.
    let node = match world.store.open_session(&hello(node.id, node.instance, &[])).await.expect("opened") {
        store::Opened::Session { key, .. } => Node { session: key, ..node },
        refused => panic!("{refused:?}"),
    };
    let task = world.submit(json!({})).await;
    let who = by(node, world.start_on(task, node).await);
    world.report(node, who.held, owes(1)).await;
    world.lose(node).await;
    assert!(world.task(task).await.view.queued);
    store_output(&world, who, 0).await.expect("held");
    assert_eq!(world.commit(task, other).await.expect("looked").placed, 0);
    assert_eq!(world.replace().await, 1);
    assert_eq!(world.state(task).await, TaskState::Succeeded);
    assert_eq!(world.task(task).await.attempts.len(), 1);
    nothing_is_broken(&world).await;
}

#[tokio::test]
async fn a_success_without_its_outputs_is_run_again() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    world.report(node, held, owes(1)).await;
    assert_eq!(world.report(node, held, succeeded()).await, ReportVerdict::Recorded);
    let detail = world.task(task).await;
    assert_eq!((detail.view.state, detail.attempts[0].row.state), (TaskState::Pending, AttemptState::Failed));
    assert_eq!(world.report(node, held, succeeded()).await, ReportVerdict::Repeated);
    nothing_is_broken(&world).await;
}

/// A task that reads this, as the gateway makes it.
pub(crate) fn reads(artifact: &ArtifactView, new: NewTask) -> NewTask {
    let inputs = json!([{"artifact": "data", "path": "/workspace/data"}]);
    let mut spec = new_task(json!({"inputs": inputs})).spec;
    spec.inputs[0].pinned = Some(PinnedArtifact {
        id: artifact.id,
        name: artifact.name.clone(),
        version: artifact.version.expect("ready"),
        kind: artifact.kind,
        size: 7,
        sha256: artifact.sha256.expect("ready"),
    });
    NewTask { spec, ..new }
}

pub(crate) async fn submit(world: &World, new: NewTask) -> Submitted {
    world.store.submit_tasks(&[new]).await.expect("answered").remove(0)
}

#[tokio::test]
async fn what_a_live_task_reads_is_not_removed() {
    let world = World::start().await;
    let node = world.node("n").await;
    let data = put(&world, "data", 1).await;
    let remove = async || world.store.remove_artifact(data.id, NO_GRACE, &origin()).await.expect("answered");
    let mut tasks = Vec::new();
    for _ in 0..7 {
        match submit(&world, reads(&data, new_task(json!({})))).await {
            Submitted::Accepted { id } => tasks.push(id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(world.count("SELECT count(*) FROM task_inputs").await, 7);
    match remove().await {
        RemovedArtifact::InUse { artifact, tasks: named } => {
            assert_eq!((artifact.state, &named[..]), (ArtifactState::Ready, &tasks[..5]));
        }
        other => panic!("{other:?}"),
    }
    for task in &tasks[1..] {
        world.store.cancel_task(Scope::All, *task, &origin()).await.expect("cancelled");
    }
    // One that runs, one that is run again by its own policy, one that a person has run again.
    let held = world.start_on(tasks[0], node).await;
    assert!(matches!(remove().await, RemovedArtifact::InUse { tasks: named, .. } if named == tasks[..1]));
    world.report(node, held, failed(FailureKind::NodeError)).await;
    assert!(matches!(remove().await, RemovedArtifact::InUse { .. }), "it waits");
    world.store.cancel_task(Scope::All, tasks[0], &origin()).await.expect("cancelled");
    let retry = async |task| world.store.retry_task(Scope::All, task, &origin()).await.expect("answered");
    assert_eq!(retry(tasks[3]).await, Retried::Queued);
    assert!(matches!(remove().await, RemovedArtifact::InUse { tasks: named, .. } if named == [tasks[3]]));
    world.store.cancel_task(Scope::All, tasks[3], &origin()).await.expect("cancelled");
    assert!(matches!(remove().await, RemovedArtifact::Removed(_)));
    assert!(matches!(remove().await, RemovedArtifact::Removed(_)), "once more");

    // Now it can't be read any more, by nobody.
    match retry(tasks[3]).await {
        Retried::InputsGone(inputs) => assert_eq!(inputs[0].artifact, ArtifactRef::Latest("data".into())),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.state(tasks[3]).await, TaskState::Cancelled);
    let keyed_one = reads(&data, keyed("k", 1));
    let mixed = [new_task(json!({})), keyed_one.clone(), new_task(json!({}))];
    let answers = world.store.submit_tasks(&mixed).await.expect("answered");
    assert!(matches!(answers[0], Submitted::Accepted { .. }) && matches!(answers[2], Submitted::Accepted { .. }));
    assert_eq!(answers[1], Submitted::InputGone);
    assert_eq!(world.store.standing(&[&keyed_one]).await.expect("read"), [None], "its key is free");
    nothing_is_broken(&world).await;
}

#[tokio::test]
async fn a_removal_passes_over_thousands_that_have_ended() {
    let world = World::start().await;
    let data = put(&world, "data", 1).await;
    let Submitted::Accepted { id: task } = submit(&world, reads(&data, new_task(json!({})))).await else {
        panic!("new")
    };
    world.store.cancel_task(Scope::All, task, &origin()).await.expect("cancelled");
    let many = format!(
        "CREATE TEMP TABLE cold AS SELECT t.* FROM tasks t, generate_series(1, 3000);
         UPDATE cold SET id = gen_random_uuid(); INSERT INTO tasks SELECT * FROM cold;
         CREATE TEMP TABLE hot AS SELECT c.id AS new_id, s.* FROM cold c, task_state s;
         UPDATE hot SET task_id = new_id; ALTER TABLE hot DROP COLUMN new_id; INSERT INTO task_state SELECT * FROM hot;
         INSERT INTO task_inputs SELECT '{}', id FROM cold; DROP TABLE cold, hot",
        data.id
    );
    world.database.execute(&many).await;
    world.database.execute("VACUUM ANALYZE").await;
    let mut statements = Statements::of(&world.database).await;
    statements.forget().await;
    let removed = world.store.remove_artifact(data.id, NO_GRACE, &origin()).await.expect("answered");
    assert!(matches!(removed, RemovedArtifact::Removed(_)), "{removed:?}");
    let dearest = statements.costs().await.remove(0);
    assert!(dearest.buffers <= 500, "{dearest:?}");
    assert_eq!(world.count("SELECT count(*) FROM task_inputs").await, 0);
}

#[tokio::test]
async fn what_is_deleted_with_a_task_is_also_what_it_read() {
    let world = World::start().await;
    let data = put(&world, "data", 1).await;
    let Submitted::Accepted { id: task } = submit(&world, reads(&data, new_task(json!({})))).await else {
        panic!("new")
    };
    world.store.cancel_task(Scope::All, task, &origin()).await.expect("cancelled");
    let in_a_moment = chrono::TimeDelta::seconds(-1);
    let deleted = world.store.expire_tasks(in_a_moment, None, 10).await.expect("deleted").deleted;
    assert_eq!((deleted, world.count("SELECT count(*) FROM task_inputs").await), (1, 0));
}

#[tokio::test]
async fn a_request_that_was_accepted_stands_whatever_was_removed_since() {
    let world = World::start().await;
    let data = put(&world, "data", 1).await;
    let single = reads(&data, keyed("k", 1));
    let in_batch = |place| {
        let mut new = reads(&data, keyed("b", place as u8));
        new.idempotency.as_mut().expect("a key").place = Some(place);
        new
    };
    let Submitted::Accepted { id } = submit(&world, single.clone()).await else { panic!("new") };
    let batch = [in_batch(0), in_batch(1)];
    world.store.submit_tasks(&batch).await.expect("answered");
    let other_body = reads(&data, keyed("k", 2));
    let asked = [&single, &other_body, &batch[1], &in_batch(2), &new_task(json!({}))];
    let standing = world.store.standing(&asked).await.expect("read");
    assert_eq!(standing[..2], [Some(Submitted::Replayed { id }), Some(Submitted::KeyReused { first: id })]);
    assert!(matches!(standing[2], Some(Submitted::Replayed { .. })));
    assert_eq!(standing[3..], [None, None]);
}

#[tokio::test]
async fn of_a_removal_and_a_submission_at_one_moment_one_wins() {
    let world = World::start().await;
    for round in 0..12_u8 {
        let data = put(&world, "data", round).await;
        let new = reads(&data, new_task(json!({})));
        let grace = Duration::from_millis(u64::from(round % 4));
        let (submitted, removed) = tokio::join!(submit(&world, new), async {
            tokio::time::sleep(grace).await;
            world.store.remove_artifact(data.id, NO_GRACE, &origin()).await.expect("answered")
        });
        match (submitted, removed) {
            (Submitted::Accepted { .. }, RemovedArtifact::InUse { .. })
            | (Submitted::InputGone, RemovedArtifact::Removed(_)) => {}
            both => panic!("{both:?}"),
        }
    }
    nothing_is_broken(&world).await;
}

#[tokio::test]
async fn a_held_task_is_told_with_whose_it_is() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    let of = world.store.held_task(by(node, held)).await.expect("read").expect("held");
    assert_eq!((of.project, of.created_by), (DEFAULT_PROJECT, PrincipalId::from_uuid(Uuid::from_u128(5))));
    assert_eq!(of.created_by_name, "unknown", "a principal without a key");
    world.report(node, held, exited(0)).await;
    assert!(world.store.held_task(by(node, held)).await.expect("read").is_some(), "it is not over yet");
    world.report(node, held, succeeded()).await;
    assert!(world.store.held_task(by(node, held)).await.expect("read").is_none());
}

//! The database is restored from a backup: what was leased since is known to the nodes alone.

use crate::world::{Node, World, connect, hello, new_task, piece, succeeded};
use domain::{
    attempt::{AttemptState, Report},
    ids::Held,
    outcome::{Ending, ExitFacts, LogTotals},
    reconcile::HeldAttempt,
    task::TaskState,
};
use serde_json::json;
use store::{LeaderRole, LogAck, OpenSession, Opened, ReportVerdict, Restored, SessionKey, Store, declare_restored};

/// A backup that can be restored while the world goes on.
struct Backup(test_kit::database::TestDatabase);

impl World {
    async fn back_up(&self) -> Backup {
        // A template may have no connections.
        self.store.close().await;
        Backup(self.database.copy().await)
    }
    /// The same world on the backup, and on what has happened since.
    async fn go_on(self) -> World {
        let store = connect(&self.database).await;
        World { store, ..self }
    }
}

async fn restored(backup: Backup) -> (World, i32) {
    let Restored::Epoch(epoch) = declare_restored(backup.0.url()).await.expect("declared") else { panic!("in use") };
    let store = connect(&backup.0).await;
    (World { store, database: backup.0 }, epoch)
}

/// Says hello with these, as a current agent does.
async fn comes_back(
    store: &Store,
    node: Node,
    attempts: Vec<HeldAttempt>,
) -> (SessionKey, Vec<Held>, Vec<Held>, Vec<Held>) {
    let hello = OpenSession { attempts, ..hello(node.id, node.instance, &[]) };
    match store.open_session(&hello).await.expect("opened") {
        Opened::Session { key, stop, orphans, adopted, .. } => (key, stop, orphans, adopted),
        other => panic!("{other:?}"),
    }
}
fn running(held: Held, task: domain::ids::TaskId) -> HeldAttempt {
    HeldAttempt { task: Some(task), number: 1, ..HeldAttempt::new(held, AttemptState::Running) }
}
fn ended() -> Ending {
    let exit = ExitFacts { code: Some(0), ..ExitFacts::default() };
    Ending { failure: None, message: String::new(), exit: Some(exit), planned_stop: false, log: LogTotals::default() }
}

#[tokio::test]
async fn work_that_was_leased_after_the_backup_goes_on_and_its_result_counts() {
    let world = World::start().await;
    let node = world.node("n").await;
    let (task, never_backed_up) = (world.submit(json!({})).await, json!({}));
    let backup = world.back_up().await;
    let world = world.go_on().await;
    let held = world.start_on(task, node).await;
    let lost = world.submit(never_backed_up).await;
    let orphan = world.start_on(lost, node).await;
    drop(world);

    let (world, epoch) = restored(backup).await;
    assert!(epoch > 1);
    assert_eq!(world.task(task).await.view.state, TaskState::Pending, "the backup knows of no lease");
    let heads = || async { world.heads(64).await.len() };
    assert_eq!(heads().await, 0, "what waits may be running on a node that is not back yet");
    let inventory = vec![running(held, task), running(orphan, lost)];
    let (session, stop, orphans, adopted) = comes_back(&world.store, node, inventory.clone()).await;
    assert_eq!((stop, orphans, adopted), (vec![], vec![orphan], vec![held]));
    let detail = world.task(task).await;
    assert_eq!((detail.view.state, detail.attempts[0].row.state), (TaskState::Running, AttemptState::Running));
    assert!(world.store.outbox(node.id, &[]).await.expect("read").items.is_empty(), "it is told to stop nothing");

    // Its log and its end count as if nothing had happened.
    let node = Node { session, ..node };
    let acks = world.store.append_logs(node.session, &[piece(held, 1, 0, b"hi\n")]).await.expect("stored");
    assert_eq!(acks, [LogAck { attempt: held.attempt, stream: 1, next_offset: 3 }]);
    assert_eq!(world.report(node, held, Report::Ended { ending: ended() }).await, ReportVerdict::Recorded);
    assert_eq!(world.state(task).await, TaskState::Succeeded);
    assert_eq!(world.report(node, held, Report::Released).await, ReportVerdict::Recorded);

    // The orphan is let go of with its log, and its result is kept aside, once.
    let acks =
        world.store.append_logs(node.session, &[piece(orphan, 1, 5, b"kept by nobody")]).await.expect("answered");
    assert_eq!(acks, [LogAck { attempt: orphan.attempt, stream: 1, next_offset: 19 }]);
    for _ in 0..2 {
        assert_eq!(world.report(node, orphan, succeeded()).await, ReportVerdict::Orphan);
    }
    assert_eq!(world.report(node, orphan, Report::Released).await, ReportVerdict::Orphan);
    assert_eq!(world.count("SELECT count(*) FROM rejected_reports WHERE verdict = 'orphan'").await, 1);
    // All are back, so what waits is placed again.
    world.submit(json!({})).await;
    assert_eq!(heads().await, 1);
}

#[tokio::test]
async fn what_ended_after_the_backup_and_was_acknowledged_ends_again() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    let backup = world.back_up().await;
    let world = world.go_on().await;
    assert_eq!(world.report(node, held, Report::Ended { ending: ended() }).await, ReportVerdict::Recorded);
    drop(world);

    let (world, _) = restored(backup).await;
    assert_eq!(world.state(task).await, TaskState::Running);
    // Only the release is left to be reported.
    let said =
        HeldAttempt { ending: Some(ended()), ..HeldAttempt { state: AttemptState::Succeeded, ..running(held, task) } };
    let (_, stop, orphans, _) = comes_back(&world.store, node, vec![said]).await;
    assert_eq!((stop, orphans), (vec![], vec![]));
    assert_eq!(world.state(task).await, TaskState::Succeeded);
}

#[tokio::test]
async fn the_later_lease_wins_whoever_comes_back_first() {
    for newer_first in [true, false] {
        let world = World::start().await;
        let (old, new) = (world.node("old").await, world.node("new").await);
        let task = world.submit(json!({})).await;
        let first = world.start_on(task, old).await;
        let backup = world.back_up().await;
        let world = world.go_on().await;
        world.lose(old).await;
        let second = world.start_on(task, new).await;
        drop(world);

        let (world, _) = restored(backup).await;
        assert_eq!(world.held(task).await, first, "the backup knows the first only");
        let comes = async |is_new: bool| {
            let (node, held) = if is_new { (new, second) } else { (old, first) };
            comes_back(&world.store, node, vec![running(held, task)]).await.1
        };
        assert_eq!(comes(newer_first).await, []);
        let stopped = comes(!newer_first).await;
        assert_eq!(stopped, if newer_first { vec![first] } else { vec![] });
        assert_eq!((world.held(task).await, world.state(task).await), (second, TaskState::Running));
        let outbox = world.store.outbox(old.id, &[]).await.expect("read").items;
        let told = matches!(&outbox[..], [store::OutboxItem::Stop { held }] if *held == first);
        assert!(told, "the replaced one is stopped: {outbox:?}");
        let losses = world.count("SELECT node_losses::bigint FROM task_state").await;
        assert_eq!(losses, 0, "a restore is no loss of a node");
    }
}

#[tokio::test]
async fn a_lease_that_was_given_since_the_restore_stands() {
    let world = World::start().await;
    let (away, other) = (world.node("away").await, world.node("other").await);
    let task = world.submit(json!({})).await;
    let backup = world.back_up().await;
    let world = world.go_on().await;
    let forgotten = world.start_on(task, away).await;
    drop(world);

    let (world, _) = restored(backup).await;
    let (session, ..) = comes_back(&world.store, other, vec![]).await;
    // Nobody waits for a node for ever: it is offline by now.
    world.database.execute(&format!("UPDATE node_live SET offline_since = now() WHERE node_id = '{}'", away.id)).await;
    let again = world.start_on(task, Node { session, ..other }).await;
    assert!(again.fence > forgotten.fence, "no fence is given twice");
    let (_, stop, ..) = comes_back(&world.store, away, vec![running(forgotten, task)]).await;
    assert_eq!(stop, [forgotten]);
    assert_eq!((world.held(task).await, world.state(task).await), (again, TaskState::Running));
}

#[tokio::test]
async fn an_assignment_that_may_have_begun_since_the_backup_is_not_sent_again() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let sent = world.place(task, node).await;
    let (world, _) = restored(world.back_up().await).await;
    comes_back(&world.store, node, vec![]).await;
    let detail = world.task(task).await;
    assert_eq!((detail.view.state, detail.view.queued), (TaskState::Pending, true));
    assert!(world.place(task, node).await.fence > sent.fence);
}

#[tokio::test]
async fn no_node_takes_a_task_by_making_up_an_attempt() {
    let world = World::start().await;
    let node = world.node("n").await;
    let before = world.submit(json!({})).await;
    let (world, _) = restored(world.back_up().await).await;
    comes_back(&world.store, node, vec![]).await;
    let since = match world.store.submit_tasks(&[new_task(json!({}))]).await.expect("accepted")[..] {
        [store::Submitted::Accepted { id }] => id,
        ref other => panic!("{other:?}"),
    };
    let made_up = Held {
        attempt: domain::ids::AttemptId::from_uuid(uuid::Uuid::now_v7()),
        fence: domain::ids::Fence::from_i64((1 << 32) + 99),
    };
    for task in [before, since] {
        let (.., adopted) = comes_back(&world.store, node, vec![running(made_up, task)]).await;
        assert_eq!((adopted, world.state(task).await), (vec![], TaskState::Pending));
    }
}

#[tokio::test]
async fn a_restore_is_not_declared_while_services_are_connected_and_each_begins_an_epoch_of_its_own() {
    let world = World::start().await;
    let node = world.node("n").await;
    let frozen = world.leads(LeaderRole::Scheduler).await;
    assert!(matches!(declare_restored(world.database.url()).await.expect("answered"), Restored::InUse(1..)));
    assert_eq!(world.count("SELECT epoch::bigint FROM cluster").await, 1);
    let backup = world.back_up().await;
    let Restored::Epoch(first) = declare_restored(backup.0.url()).await.expect("declared") else { panic!("in use") };
    let (world, second) = restored(backup).await;
    assert!(second > first);
    // What was frozen since before the restore holds numbers that nobody gets again.
    assert!(world.store.commit_placements(&frozen, &[]).await.is_err());
    let (session, ..) = comes_back(&world.store, node, vec![]).await;
    assert!(session.epoch > node.session.epoch + 1);
}

#[tokio::test]
async fn a_service_that_is_just_leaving_holds_up_no_restore() {
    let world = World::start().await;
    let leaving = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        world.store.close().await;
    };
    let (declared, ()) = tokio::join!(declare_restored(world.database.url()), leaving);
    assert!(matches!(declared.expect("answered"), Restored::Epoch(_)));
}

#[tokio::test]
async fn exclusive_work_waits_for_processes_that_nobody_knows_of() {
    let world = World::start().await;
    let known = world.node("known").await;
    let exclusive = json!({"on_node_loss": {"exclusive": true, "replace_after": "10m"}});
    let (task, plain) = (world.submit(exclusive).await, world.submit(json!({})).await);
    let backup = world.back_up().await;
    let world = world.go_on().await;
    // The backup has never heard of this node, and so nobody waits for its hello.
    let unknown = world.node("unknown").await;
    world.start_on(task, unknown).await;
    drop(world);

    let (world, _) = restored(backup).await;
    let (session, ..) = comes_back(&world.store, known, vec![]).await;
    let known = Node { session, ..known };
    world.place(plain, known).await;
    let placed = async || world.commit(task, known).await.expect("committed").placed;
    for (seconds, places) in [(3_600, 0), (689, 0), (1, 1)] {
        world.pass_time(seconds).await;
        let heads = world.heads(64).await;
        assert_eq!((heads.len(), placed().await), (places, places), "{seconds} s later");
    }
}

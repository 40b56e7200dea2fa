//! What nodes report: recorded once, in any repetition, and only from whoever holds the task.

use crate::world::{World, connect, exited, failed, hello, new_task, origin, piece, succeeded};
use domain::{
    attempt::{AttemptState, Report},
    ids::{AttemptId, Fence, Held, InstanceId},
    node::NodeFacts,
    outcome::FailureKind,
    principal::Scope,
    task::TaskState,
};
use serde_json::json;
use store::{Look, NodeReport, OpenSession, Opened, OutboxItem, ReportVerdict, SessionKey, SessionReports};
use uuid::Uuid;

#[tokio::test]
async fn a_report_is_recorded_once_and_repeats_are_repeats() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.place(task, node).await;
    let all = [Report::Accepted, Report::Preparing, Report::Started, exited(0), succeeded(), Report::Released];
    let batch: Vec<NodeReport> = all.iter().map(|report| NodeReport { held, report: report.clone() }).collect();
    let answers = world.store.record_reports(node.session, &batch).await.expect("answered");
    assert_eq!(answers, [ReportVerdict::Recorded; 6], "a whole life in one batch");
    assert_eq!(world.state(task).await, TaskState::Succeeded);
    let events = world.count("SELECT count(*) FROM task_events").await;
    let answers = world.store.record_reports(node.session, &batch).await.expect("answered");
    assert_eq!(answers, [ReportVerdict::Repeated; 6]);
    assert_eq!(world.count("SELECT count(*) FROM task_events").await, events, "a repeat leaves no trace");
    assert_eq!(world.count("SELECT count(*) FROM rejected_reports").await, 0);
}

#[tokio::test]
async fn another_end_after_the_end_is_a_conflict_and_kept_aside() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    world.report(node, held, succeeded()).await;
    assert_eq!(world.report(node, held, failed(FailureKind::ExitNonzero)).await, ReportVerdict::Conflict);
    assert_eq!(world.state(task).await, TaskState::Succeeded);
    assert_eq!(world.count("SELECT count(*) FROM rejected_reports WHERE verdict = 'conflict'").await, 1);
}

#[tokio::test]
async fn who_does_not_hold_the_task_is_fenced() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    assert_eq!(world.report(other, held, succeeded()).await, ReportVerdict::Fenced, "another node's attempt");
    for fence in [held.fence.get() - 1, held.fence.get() + 1, 0, -1] {
        let forged = Held { fence: Fence::from_i64(fence), ..held };
        assert_eq!(world.report(node, forged, succeeded()).await, ReportVerdict::Fenced, "fence {fence}");
    }
    let unknown = Held { attempt: domain::ids::AttemptId::from_uuid(Uuid::from_u128(3)), ..held };
    assert_eq!(world.report(node, unknown, succeeded()).await, ReportVerdict::Fenced);
    assert_eq!(world.state(task).await, TaskState::Running);
    assert_eq!(world.count("SELECT count(*) FROM rejected_reports WHERE verdict = 'fenced'").await, 6);
}

#[tokio::test]
async fn an_older_session_of_a_node_says_nothing_any_more() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    let newer = match world.store.open_session(&hello(node.id, node.instance, &[held])).await.expect("opened") {
        Opened::Session { key, .. } => key,
        other => panic!("{other:?}"),
    };
    assert_eq!(world.report(node, held, succeeded()).await, ReportVerdict::StaleSession);
    assert_eq!(world.state(task).await, TaskState::Running);
    assert!(world.store.heartbeat(&[(node.session, Default::default())]).await.expect("answered").is_empty());
    assert_eq!(world.store.heartbeat(&[(newer, Default::default())]).await.expect("answered"), [newer]);
    let unknown = SessionKey { node: domain::ids::NodeId::from_uuid(Uuid::from_u128(1)), epoch: 1 };
    let report = NodeReport { held, report: succeeded() };
    assert_eq!(world.store.record_reports(unknown, &[report]).await.expect("answered"), [ReportVerdict::StaleSession]);
}

#[tokio::test]
async fn what_several_nodes_say_at_once_is_answered_to_each_by_its_own() {
    let world = World::start().await;
    let (one, two, gone) = (world.node("one").await, world.node("two").await, world.node("gone").await);
    let mut held = Vec::new();
    for node in [one, two, gone] {
        let task = world.submit(json!({})).await;
        held.push((task, world.start_on(task, node).await));
    }
    world.store.open_session(&hello(gone.id, gone.instance, &[held[2].1])).await.expect("a newer session");
    let of = |node: crate::world::Node, reports: Vec<(Held, Report)>| SessionReports {
        session: node.session,
        reports: reports.into_iter().map(|(held, report)| NodeReport { held, report }).collect(),
    };
    let batch = [
        of(one, vec![(held[0].1, exited(0)), (held[0].1, succeeded())]),
        // Its own, which failed it, and one that is its neighbour's.
        of(two, vec![(held[1].1, failed(FailureKind::NodeError)), (held[0].1, Report::Released)]),
        of(gone, vec![(held[2].1, succeeded())]),
        of(one, vec![(held[0].1, Report::Released), (held[0].1, failed(FailureKind::ExitNonzero))]),
    ];
    let answers = world.store.record_reports_of_many(&batch).await.expect("answered");
    use ReportVerdict::{Conflict, Fenced, Recorded, StaleSession};
    assert_eq!(
        answers,
        [vec![Recorded, Recorded], vec![Recorded, Fenced], vec![StaleSession], vec![Recorded, Conflict]]
    );
    let states = [world.state(held[0].0).await, world.state(held[1].0).await, world.state(held[2].0).await];
    assert_eq!(states, [TaskState::Succeeded, TaskState::Pending, TaskState::Running]);
    assert_eq!(
        world.count("SELECT count(*) FROM node_faults").await,
        1,
        "only the node that failed something has faults"
    );
    assert_eq!(world.count("SELECT count(*) FROM rejected_reports WHERE verdict = 'conflict'").await, 1);
}

#[tokio::test]
async fn two_first_failures_of_a_node_that_are_told_at_one_time_both_count() {
    let world = World::start().await;
    let node = world.node("n").await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let task = world.submit(json!({})).await;
        held.push(world.start_on(task, node).await);
    }
    // Neither can write before both have looked.
    let pool = world.database.pool().await;
    let mut holder = pool.begin().await.expect("begun");
    sqlx::query("LOCK TABLE node_faults IN SHARE MODE").execute(&mut *holder).await.expect("locked");
    let (first, second, ()) = tokio::join!(
        world.report(node, held[0], failed(FailureKind::NodeError)),
        world.report(node, held[1], failed(FailureKind::NodeError)),
        async {
            let waits =
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while world.count(waits).await < 2 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            holder.rollback().await.expect("let go");
        }
    );
    assert_eq!([first, second], [ReportVerdict::Recorded; 2]);
    let counted = "SELECT jsonb_array_length((record::jsonb)->'failures')::bigint FROM node_faults";
    assert_eq!(world.count(counted).await, 2);
}

#[tokio::test]
async fn a_node_that_comes_back_before_its_replacement_keeps_the_task() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    world.lose(node).await;
    let view = world.task(task).await.view;
    assert!(view.queued && view.state == TaskState::Running, "it may be running on");
    assert_eq!(world.report(node, held, exited(0)).await, ReportVerdict::Recorded);
    assert_eq!(world.commit(task, other).await.expect("checked").placed, 0, "too late to replace it");
    assert_eq!(world.report(node, held, succeeded()).await, ReportVerdict::Recorded);
    assert_eq!(world.state(task).await, TaskState::Succeeded);
}

#[tokio::test]
async fn a_node_that_comes_back_after_its_replacement_is_fenced() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let task = world.submit(json!({})).await;
    let held = world.start_on(task, node).await;
    world.lose(node).await;
    let newer = world.place(task, other).await;
    assert!(newer.fence > held.fence);
    assert_eq!(world.report(node, held, succeeded()).await, ReportVerdict::Fenced);
    let attempts = world.task(task).await.attempts;
    assert_eq!((attempts[0].row.state, attempts[1].row.state), (AttemptState::Lost, AttemptState::Assigned));
    assert!(attempts[0].row.reserved, "until its node says that the machine is free");
    assert_eq!(world.report(node, held, Report::Released).await, ReportVerdict::Recorded);
    assert!(!world.task(task).await.attempts[0].row.reserved);
    // Its log is kept all the same: it changes no state.
    let acks = world.store.append_logs(node.session, &[piece(held, 1, 0, b"late")]).await.expect("stored");
    assert_eq!(acks[0].next_offset, 4);
}

#[tokio::test]
async fn of_a_report_and_a_replacement_at_once_exactly_one_wins() {
    let world = World::start().await;
    let (node, other) = (world.node("n").await, world.node("other").await);
    let second = connect(&world.database).await;
    let leader = world.leads(store::LeaderRole::Scheduler).await;
    let (mut reported, mut replaced) = (0, 0);
    for round in 0..30 {
        let task = world.submit(json!({})).await;
        world
            .database
            .execute(&format!(
                "UPDATE node_live SET offline_since = NULL, connected = true WHERE node_id = '{}'",
                node.id
            ))
            .await;
        let held = world.start_on(task, node).await;
        world.lose(node).await;
        let report = [NodeReport { held, report: succeeded() }];
        let plan = [crate::world::placement(task, other)];
        // Either may begin first.
        let (report, placed) = if round % 2 == 0 {
            tokio::join!(second.record_reports(node.session, &report), world.store.commit_placements(&leader, &plan))
        } else {
            let (placed, report) = tokio::join!(
                world.store.commit_placements(&leader, &plan),
                second.record_reports(node.session, &report)
            );
            (report, placed)
        };
        let (report, placed) = (report.expect("answered")[0], placed.expect("committed").placed);
        let detail = world.task(task).await;
        match (report, placed) {
            (ReportVerdict::Recorded, 0) => {
                reported += 1;
                assert_eq!((detail.view.state, detail.attempts.len()), (TaskState::Succeeded, 1));
            }
            (ReportVerdict::Fenced, 1) => {
                replaced += 1;
                assert_eq!((detail.view.state, detail.attempts.len()), (TaskState::Assigned, 2));
            }
            other => panic!("both or neither won: {other:?}"),
        }
    }
    assert_eq!(reported + replaced, 30);
}

#[tokio::test]
async fn the_two_orders_of_locks_never_meet_in_a_circle() {
    let world = World::start().await;
    let node = world.node("n").await;
    let stores = futures::future::join_all((0..3).map(|_| connect(&world.database))).await;
    let tasks: Vec<_> = vec![new_task(json!({})); 20];
    let ids: Vec<_> = world
        .store
        .submit_tasks(&tasks)
        .await
        .expect("accepted")
        .into_iter()
        .map(|answer| match answer {
            store::Submitted::Accepted { id } => id,
            other => panic!("{other:?}"),
        })
        .collect();
    let mut batch = Vec::new();
    for id in &ids {
        batch.push(NodeReport { held: world.place(*id, node).await, report: Report::Started });
    }
    let mut backwards = batch.clone();
    backwards.reverse();
    let batches = [batch.clone(), backwards, batch];
    let calls = stores.iter().zip(&batches).map(|(store, batch)| store.record_reports(node.session, batch));
    let answers = futures::future::join_all(calls).await;
    let recorded = answers
        .into_iter()
        .flat_map(|answer| answer.expect("no deadlock"))
        .filter(|v| *v == ReportVerdict::Recorded)
        .count();
    assert_eq!(recorded, 20, "each once");
}

#[tokio::test]
async fn a_session_settles_what_the_node_has_and_should_have() {
    let world = World::start().await;
    let node = world.node("n").await;
    let (kept, missing, unaccepted) =
        (world.submit(json!({})).await, world.submit(json!({})).await, world.submit(json!({})).await);
    let kept_held = world.start_on(kept, node).await;
    world.start_on(missing, node).await;
    let sent = world.place(unaccepted, node).await;
    let stranger = Held { attempt: domain::ids::AttemptId::from_uuid(Uuid::from_u128(8)), ..kept_held };
    let stale = Held { fence: Fence::from_i64(1), ..kept_held };
    let opened =
        world.store.open_session(&hello(node.id, node.instance, &[kept_held, stranger])).await.expect("opened");
    let Opened::Session { key, stop, draining, name, .. } = opened else { panic!("{opened:?}") };
    assert_eq!((stop, draining, name.as_str()), (vec![stranger], false, "n"));
    assert_eq!(key.epoch, node.session.epoch + 1);
    assert_eq!(world.state(kept).await, TaskState::Running);
    let given_up = world.task(missing).await;
    assert_eq!((given_up.view.state, given_up.view.queued), (TaskState::Pending, true));
    assert!(!given_up.attempts[0].row.reserved, "the machine knows nothing of it");
    assert_eq!(world.state(unaccepted).await, TaskState::Assigned, "it may never have arrived, so it is sent again");
    let outbox = world.store.outbox(node.id, &[]).await.expect("read");
    assert!(matches!(&outbox.items[..], [store::OutboxItem::Assign { held, .. }] if *held == sent), "{outbox:?}");
    // An attempt with an old fence is not the one that it should have.
    let opened = world.store.open_session(&hello(node.id, node.instance, &[stale])).await.expect("opened");
    assert!(matches!(opened, Opened::Session { stop, .. } if stop == [stale]));
}

#[tokio::test]
async fn a_second_installation_waits_until_the_first_is_silent() {
    let world = World::start().await;
    let node = world.node("n").await;
    let copy = InstanceId::from_uuid(Uuid::from_u128(42));
    let opened = world.store.open_session(&hello(node.id, copy, &[])).await.expect("answered");
    assert_eq!(opened, Opened::OtherInstance);
    world.store.close_session(node.session).await.expect("closed");
    let opened = world.store.open_session(&hello(node.id, copy, &[])).await.expect("answered");
    assert!(matches!(opened, Opened::Session { .. }), "{opened:?}");
}

#[tokio::test]
async fn a_copy_of_a_machine_waits_until_the_machine_is_silent_and_a_restarted_agent_does_not() {
    let world = World::start().await;
    let node = world.node("n").await;
    let of_boot = |boot: u128| {
        let said = hello(node.id, node.instance, &[]);
        OpenSession { facts: NodeFacts { boot: Some(Uuid::from_u128(boot)), ..said.facts.clone() }, ..said }
    };
    let open = async |boot| world.store.open_session(&of_boot(boot)).await.expect("answered");
    // An agent of before this was told, then its successor, which is killed and started again.
    for _ in 0..2 {
        assert!(matches!(open(1).await, Opened::Session { .. }));
    }
    assert_eq!(open(2).await, Opened::OtherBoot);
    let Opened::Session { key, .. } = open(1).await else { panic!("the machine itself is let in") };
    world.store.close_session(key).await.expect("closed");
    assert!(matches!(open(2).await, Opened::Session { .. }), "as after a restart of the machine");
    assert_eq!(open(1).await, Opened::OtherBoot);
}

#[tokio::test]
async fn the_last_words_of_a_closed_session_do_not_close_a_newer_one() {
    let world = World::start().await;
    let node = world.node("n").await;
    world.store.open_session(&hello(node.id, node.instance, &[])).await.expect("opened");
    world.store.close_session(node.session).await.expect("ignored");
    let found = world.store.find_node("n").await.expect("read").expect("there");
    assert_eq!(found.node.presence, domain::node::Presence::Connected);
    assert_eq!(world.store.task_history(Scope::All, world.submit(json!({})).await, 0, 9).await.expect("read").len(), 1);
}

#[tokio::test]
async fn a_look_for_what_is_new_finds_leases_that_were_not_sent_and_a_look_at_all_what_must_end() {
    let world = World::start().await;
    let node = world.node("n").await;
    let (first, second) = (world.submit(json!({})).await, world.submit(json!({})).await);
    let (first, second) = ((first, world.place(first, node).await), (second, world.place(second, node).await));
    let look = async |look: Look, sent: &[Held]| {
        let sent: Vec<AttemptId> = sent.iter().map(|held| held.attempt).collect();
        let nodes = [(node.id, sent.last().copied())].into();
        let outbox = world.store.outboxes(&nodes, &sent, look).await.expect("read").remove(&node.id).expect("there");
        let word = |item: &OutboxItem| match item {
            OutboxItem::Assign { held, .. } => ("assign", *held),
            OutboxItem::Cancel { held } => ("cancel", *held),
            other => panic!("{other:?}"),
        };
        (outbox.items.iter().map(word).collect::<Vec<_>>(), outbox.open)
    };
    let (assign, cancel) = ("assign", "cancel");
    let (new, open) = look(Look::New, &[first.1]).await;
    assert_eq!((new, open), (vec![(assign, second.1)], [second.1.attempt].into()));
    let (all, open) = look(Look::All, &[first.1]).await;
    assert_eq!((all, open), (vec![(assign, second.1)], [first.1.attempt, second.1.attempt].into()));
    world.report(node, first.1, Report::Accepted).await;
    world.store.cancel_task(Scope::All, first.0, &origin()).await.expect("asked");
    assert_eq!(look(Look::New, &[second.1]).await, (vec![], [].into()), "it is told by a look at all");
    assert_eq!(look(Look::All, &[second.1]).await.0, [(cancel, first.1)]);
}

#[tokio::test]
async fn an_assignment_that_can_not_be_read_keeps_no_other_from_its_node_or_its_neighbours() {
    let world = World::start().await;
    let (one, two) = (world.node("one").await, world.node("two").await);
    let (strange, good, other) =
        (world.submit(json!({})).await, world.submit(json!({})).await, world.submit(json!({})).await);
    world.place(strange, one).await;
    let (good, other) = (world.place(good, one).await, world.place(other, two).await);
    world
        .database
        .execute(&format!("UPDATE tasks SET spec = '{{\"of\": \"the future\"}}' WHERE id = '{strange}'"))
        .await;
    let outboxes = world.store.outboxes(&[(one.id, None), (two.id, None)].into(), &[], Look::New).await.expect("read");
    let assigned = |node: crate::world::Node| -> Vec<Held> {
        let held = |item: &OutboxItem| match item {
            OutboxItem::Assign { held, .. } => *held,
            other => panic!("{other:?}"),
        };
        outboxes[&node.id].items.iter().map(held).collect()
    };
    assert_eq!((assigned(one), assigned(two)), (vec![good], vec![other]));
}

//! The audit finds nothing in a sound database, and each breach in a broken one.

use crate::world::{World, exited, failed, keyed, new_task, origin, piece, succeeded};
use domain::{
    attempt::Report,
    ids::{Held, TaskId},
    outcome::FailureKind,
    principal::Scope,
};
use serde_json::json;
use std::time::Duration;
use store::{Depth, LeaderRole, LogPiece, Outcome, ReportVerdict, Submitted};

const WITHIN: Duration = Duration::from_secs(20);

/// What a plant needs to name.
struct Mixed {
    world: World,
    waiting: TaskId,
    running: (TaskId, Held),
    /// Succeeded in its second attempt.
    done: (TaskId, Held, Held),
    cancelled: TaskId,
    keyed: TaskId,
}

/// A bit of everything that happens to tasks.
async fn mixed() -> Mixed {
    let world = World::start().await;
    let (one, two) = (world.node("one").await, world.node("two").await);
    let waiting = world.submit(json!({})).await;
    let keyed = match world.store.submit_tasks(&[keyed("k", 1)]).await.expect("accepted")[..] {
        [Submitted::Accepted { id }] => id,
        ref other => panic!("{other:?}"),
    };
    let running = world.submit(json!({"timeout": "1h", "requirements": {"memory": "1GiB"}})).await;
    let running = (running, world.start_on(running, one).await);

    // A node is lost, the task moves, and the old attempt's end comes too late.
    let moved = world.submit(json!({})).await;
    let first = world.start_on(moved, two).await;
    world.lose(two).await;
    let second = world.start_on(moved, one).await;
    assert_eq!(world.report(two, first, succeeded()).await, ReportVerdict::Fenced);
    world.report(two, first, Report::Released).await;
    let gap = LogPiece { gap: Some(7), ..piece(second, 1, 5, b"") };
    let pieces = [piece(second, 1, 0, b"hello"), gap, piece(second, 1, 12, b"more"), piece(second, 2, 0, b"oops")];
    world.store.append_logs(one.session, &pieces).await.expect("stored");
    for report in [exited(0), succeeded(), Report::Released] {
        assert_eq!(world.report(one, second, report).await, ReportVerdict::Recorded);
    }

    // Failed, failed by its machine and queued again, cancelled while it waits and while it runs, run once more, too late.
    let bad = world.submit(json!({})).await;
    let held = world.start_on(bad, one).await;
    world.report(one, held, failed(FailureKind::ExitNonzero)).await;
    world.report(one, held, Report::Released).await;
    let unlucky = world.submit(json!({})).await;
    let held = world.start_on(unlucky, one).await;
    world.report(one, held, failed(FailureKind::NodeError)).await;
    let cancelled = world.submit(json!({})).await;
    world.store.cancel_task(Scope::All, cancelled, &origin()).await.expect("cancelled");
    let stopped = world.submit(json!({})).await;
    let held = world.start_on(stopped, one).await;
    world.store.cancel_task(Scope::All, stopped, &origin()).await.expect("asked");
    world.report(one, held, failed(FailureKind::Cancelled)).await;
    let again = world.submit(json!({})).await;
    let held = world.start_on(again, one).await;
    world.report(one, held, succeeded()).await;
    world.store.retry_task(Scope::All, again, &origin()).await.expect("queued");
    let held = world.start_on(again, one).await;
    world.report(one, held, succeeded()).await;
    let late = world.submit(json!({"queue_timeout": "1s"})).await;
    world
        .database
        .execute(&format!(
            "UPDATE task_state SET queue_expires_at = now() - interval '1 second' WHERE task_id = '{late}'"
        ))
        .await;
    assert_eq!(world.store.expire_queued(10).await.expect("ended"), 1);
    Mixed { world, waiting, running, done: (moved, first, second), cancelled, keyed }
}

async fn broken(world: &World, depth: Depth) -> Vec<(&'static str, Vec<String>)> {
    let findings = world.store.audit(depth, WITHIN).await.expect("audited");
    let broken = findings.into_iter().filter_map(|finding| match finding.outcome {
        Outcome::Holds => None,
        Outcome::Broken { rows, .. } => Some((finding.id, rows)),
        Outcome::Unknown(why) => panic!("{}: {why}", finding.id),
    });
    broken.collect()
}

#[tokio::test]
async fn a_mixed_workload_breaks_nothing() {
    let mixed = mixed().await;
    assert_eq!(broken(&mixed.world, Depth::Whole).await, []);
    let counts = mixed.world.store.audit_counts().await.expect("counted");
    assert!(counts.len() >= 8 && counts.iter().all(|(_, count)| *count == 0), "{counts:?}");
    let all = mixed.world.store.audit(Depth::Whole, WITHIN).await.expect("audited");
    assert!(all.len() > counts.len(), "the cheap ones are not all");
}

/// Breaks a sound database by hand and expects these findings and no other, the first with this text.
async fn planted(expected: &[&str], text: impl Fn(&Mixed) -> String, plant: impl Fn(&Mixed) -> String) {
    let mixed = mixed().await;
    mixed.world.database.execute(&plant(&mixed)).await;
    let found = broken(&mixed.world, Depth::Whole).await;
    let names: Vec<&str> = found.iter().map(|(id, _)| *id).collect();
    assert_eq!(names, expected, "{found:#?}");
    let text = text(&mixed);
    assert!(found.iter().any(|(_, rows)| rows.iter().any(|row| row.contains(&text))), "no {text:?} in {found:#?}");
}

#[tokio::test]
async fn a_task_that_was_accepted_and_is_gone_is_found() {
    planted(
        &["accepted-tasks-are-there"],
        |m| format!("task {} was accepted and is in no state", m.waiting),
        |m| format!("DELETE FROM task_state WHERE task_id = '{}'", m.waiting),
    )
    .await;
    planted(
        &["accepted-tasks-are-there"],
        |m| m.waiting.to_string(),
        |m| format!("DELETE FROM task_events WHERE task_id = '{}'", m.waiting),
    )
    .await;
    planted(
        &["accepted-tasks-are-there"],
        |m| format!("{} was submitted", m.waiting),
        |m| {
            let id = m.waiting;
            format!("DELETE FROM task_state WHERE task_id = '{id}'; DELETE FROM tasks WHERE id = '{id}'")
        },
    )
    .await;
}

#[tokio::test]
async fn a_key_that_names_no_task_is_found() {
    let nobody = uuid::Uuid::from_u128(4);
    planted(
        &["keys-name-tasks"],
        |_| format!("key 'k' of project {} names task {nobody}", domain::ids::DEFAULT_PROJECT),
        |m| format!("UPDATE idempotency_keys SET task_id = '{nobody}' WHERE task_id = '{}'", m.keyed),
    )
    .await;
}

#[tokio::test]
async fn a_history_that_breaks_the_rules_is_found() {
    planted(&["histories-are-lawful"], |m| format!("task {}, entry", m.running.0), |m| {
        format!(
            "INSERT INTO task_events (task_id, project_id, state, events) SELECT task_id, project_id, state, '[{{\"event\": \"retry_asked\"}}]'
             FROM task_state WHERE task_id = '{}'",
            m.running.0
        )
    })
    .await;
    planted(&["histories-are-lawful"], |_| "the database holds something unreadable".into(), |m| {
        format!("UPDATE task_events SET events = '[{{\"event\": \"submitted\"}}, {{\"event\": \"exploded\"}}]' WHERE task_id = '{}'", m.waiting)
    })
    .await;
}

#[tokio::test]
async fn a_state_that_no_entry_tells_is_found() {
    // The attempt moves along, so that nothing else contradicts the task's row.
    planted(&["states-are-told"], |m| format!("task {} is finishing", m.running.0), |m| {
        format!(
            "UPDATE task_state SET state = 'finishing' WHERE task_id = '{}'; UPDATE attempts SET state = 'finishing' WHERE id = '{}'",
            m.running.0, m.running.1.attempt
        )
    })
    .await;
}

#[tokio::test]
async fn an_ended_task_that_waits_is_found() {
    planted(&["ended-tasks-rest"], |m| format!("task {} is cancelled and queued", m.cancelled), |m| {
        format!(
            "ALTER TABLE task_state DROP CONSTRAINT task_holds_or_waits_or_ended; UPDATE task_state SET queued = true WHERE task_id = '{}'",
            m.cancelled
        )
    })
    .await;
}

#[tokio::test]
async fn a_success_without_the_attempt_that_made_it_is_found() {
    planted(
        &["ended-by-one-attempt", "ended-attempts-rest"],
        |m| format!("task {} is succeeded, but its last attempt is failed", m.done.0),
        |m| format!("UPDATE attempts SET state = 'failed' WHERE id = '{}'", m.done.2.attempt),
    )
    .await;
    planted(
        &["ended-by-one-attempt", "ended-attempts-rest"],
        |m| format!("task {} has 2 attempts that succeeded", m.done.0),
        |m| format!("UPDATE attempts SET state = 'succeeded' WHERE id = '{}'", m.done.1.attempt),
    )
    .await;
}

#[tokio::test]
async fn a_task_that_outlives_its_timeouts_is_found() {
    planted(
        &["no-task-is-stuck"],
        |m| format!("task {} waits", m.waiting),
        |m| {
            format!(
                "UPDATE task_state SET queue_expires_at = now() - interval '3 minutes' WHERE task_id = '{}'",
                m.waiting
            )
        },
    )
    .await;
    planted(&["no-task-is-stuck"], |m| format!("task {} is running", m.running.0), |m| {
        format!(
            "UPDATE node_live SET connected_since = now() - interval '1 day';
             UPDATE attempts SET placed_at = placed_at - interval '2 hours', accepted_at = accepted_at - interval '2 hours',
                    preparing_at = preparing_at - interval '2 hours', started_at = started_at - interval '2 hours' WHERE id = '{}'",
            m.running.1.attempt
        )
    })
    .await;
    planted(
        &["no-task-is-stuck"],
        |m| format!("task {} was placed", m.running.0),
        |m| {
            format!(
                "UPDATE node_live SET connected_since = now() - interval '1 day';
             UPDATE attempts SET placed_at = placed_at - interval '3 minutes', accepted_at = NULL WHERE id = '{}'",
                m.running.1.attempt
            )
        },
    )
    .await;
}

/// An attempt that nothing tells of, before the first one of a task.
fn intruder(beside: Held, state: &str, ended_at: &str) -> String {
    format!(
        "INSERT INTO attempts (id, task_id, number, node_id, fence, state, reservation, reserved, placed_at, ended_at)
         SELECT gen_random_uuid(), task_id, 0, node_id, 0, '{state}', reservation, false, placed_at, {ended_at} FROM attempts WHERE id = '{}'",
        beside.attempt
    )
}

#[tokio::test]
async fn a_second_live_attempt_is_found() {
    planted(
        &["one-live-attempt", "live-attempts-are-named", "attempts-are-told"],
        |m| format!("task {} has 2 live attempts", m.running.0),
        |m| intruder(m.running.1, "running", "NULL"),
    )
    .await;
}

#[tokio::test]
async fn a_live_attempt_that_its_task_does_not_name_is_found() {
    planted(
        &["histories-are-lawful", "live-attempts-are-named"],
        |m| format!("task {} names attempt", m.running.0),
        |m| format!("UPDATE task_state SET live_attempt_id = gen_random_uuid() WHERE task_id = '{}'", m.running.0),
    )
    .await;
    planted(
        &["live-attempts-are-named"],
        |m| format!("task {} is running and its attempt {} is preparing", m.running.0, m.running.1.attempt),
        |m| format!("UPDATE attempts SET state = 'preparing' WHERE id = '{}'", m.running.1.attempt),
    )
    .await;
}

#[tokio::test]
async fn fences_out_of_order_are_found() {
    planted(
        &["fences-are-the-tasks"],
        |m| format!("attempt {} has fence", m.running.1.attempt),
        |m| format!("UPDATE attempts SET fence = fence + 1 WHERE id = '{}'", m.running.1.attempt),
    )
    .await;
    planted(
        &["fences-are-the-tasks"],
        |m| format!("task {} has a fence of epoch 2, the cluster is in 1", m.waiting),
        |m| format!("UPDATE task_state SET fence = 2::bigint << 32 WHERE task_id = '{}'", m.waiting),
    )
    .await;
    planted(
        &["fences-grow"],
        |m| format!("attempt {}, number 2", m.done.2.attempt),
        |m| format!("UPDATE attempts SET fence = fence - 1 WHERE id = '{}'", m.done.2.attempt),
    )
    .await;
}

#[tokio::test]
async fn an_attempt_that_nobody_placed_is_found() {
    // It has no end in the history either.
    planted(
        &["attempts-are-told", "ended-attempts-rest"],
        |_| "no entry tells of its placement".into(),
        |m| intruder(m.done.2, "cancelled", "now()"),
    )
    .await;
    planted(
        &["attempts-are-told"],
        |m| format!("task {} counts 1 attempts and has 0", m.waiting),
        |m| format!("UPDATE task_state SET attempts = 1 WHERE task_id = '{}'", m.waiting),
    )
    .await;
}

#[tokio::test]
async fn an_attempt_that_changes_after_its_end_is_found() {
    planted(
        &["ended-attempts-rest"],
        |m| format!("attempt {} has ended at", m.done.2.attempt),
        |m| format!("UPDATE attempts SET exited_at = now() + interval '1 hour' WHERE id = '{}'", m.done.2.attempt),
    )
    .await;
    planted(&["histories-are-lawful"], |m| format!("started of attempt {} was recorded while it was not live", m.done.1.attempt), |m| {
        format!(
            "INSERT INTO task_events (task_id, project_id, state, events)
             SELECT task_id, project_id, state, json_build_array(json_build_object('event', 'started', 'attempt', '{}')) FROM task_state WHERE task_id = '{}'",
            m.done.1.attempt, m.running.0
        )
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_was_set_back_while_work_ran_is_no_breach() {
    let mixed = mixed().await;
    let (task, _, held) = mixed.done;
    // As if the clock had been ten minutes ahead until this attempt ran, and right again when it ended.
    let ahead = format!(
        "UPDATE attempts SET placed_at = placed_at + interval '10 minutes', accepted_at = accepted_at + interval '10 minutes',
                preparing_at = preparing_at + interval '10 minutes', started_at = started_at + interval '10 minutes' WHERE id = '{0}';
         UPDATE task_events SET at = at + interval '10 minutes' WHERE task_id = '{task}'
            AND id < (SELECT min(id) FROM task_events WHERE events::jsonb @> '[{{\"event\": \"exited\", \"attempt\": \"{0}\"}}]')",
        held.attempt
    );
    mixed.world.database.execute(&ahead).await;
    assert_eq!(broken(&mixed.world, Depth::Whole).await, []);
}

#[tokio::test]
async fn a_node_that_is_promised_twice_is_found() {
    let held = |m: &Mixed, reservation: &str| {
        format!(
            "UPDATE attempts SET reservation = reservation::jsonb || '{reservation}' WHERE id = '{}'",
            m.running.1.attempt
        )
    };
    planted(&["capacity-is-real"], |_| "bytes of memory".into(), |m| held(m, r#"{"memory_bytes": 9000000000000000}"#))
        .await;
    planted(&["capacity-is-real"], |_| "thousandths of a CPU".into(), |m| held(m, r#"{"cpu_millis": 2000000000}"#))
        .await;
    planted(&["capacity-is-real"], |_| "GPU-9, which node one".into(), |m| held(m, r#"{"gpu_ids": ["GPU-9"]}"#)).await;
    planted(
        &["gpus-are-held-once"],
        |_| "GPU GPU-0 of node".into(),
        |_| {
            r#"UPDATE nodes SET facts = jsonb_set(facts, '{capacity,gpus}', '[{"id": "GPU-0", "model": "x", "memory_bytes": 1}]');
               UPDATE attempts SET reservation = '{"gpu_ids": ["GPU-0"]}' WHERE reserved"#
                .into()
        },
    )
    .await;
}

#[tokio::test]
async fn a_connected_node_that_is_silent_is_found_while_somebody_watches() {
    let silent = "UPDATE node_live SET connected = true, offline_since = NULL, beat_at = now() - interval '100 seconds'
                  WHERE node_id = (SELECT id FROM nodes WHERE name = 'one');";
    let watched = |since: &str| {
        format!(
            "INSERT INTO leader VALUES ('sweeper', gen_random_uuid(), 1, now(), now() - interval '{since}')
        ON CONFLICT (role) DO UPDATE SET renewed_at = now(), led_since = EXCLUDED.led_since;"
        )
    };
    planted(&["connected-nodes-beat"], |_| "node one (".into(), |_| format!("{silent}{}", watched("2 minutes"))).await;

    // Nobody watched, or has just begun to.
    let mixed = mixed().await;
    mixed.world.database.execute(&format!("{silent}{}", watched("30 seconds"))).await;
    assert_eq!(broken(&mixed.world, Depth::Living).await, []);
    mixed
        .world
        .database
        .execute(&format!("{}UPDATE leader SET renewed_at = now() - interval '1 minute'", watched("1 hour")))
        .await;
    assert_eq!(broken(&mixed.world, Depth::Living).await, []);
    // No gateway was there to hear.
    let heard = "INSERT INTO platform_presence (since, renewed_at) VALUES (now() - interval '30 seconds', now());";
    mixed.world.database.execute(&format!("{heard}{}", watched("1 hour"))).await;
    assert_eq!(broken(&mixed.world, Depth::Living).await, []);
    mixed.world.database.execute("DELETE FROM platform_presence").await;
    // Half of all at once: the sweep waits for one period more, and no longer.
    for name in ["three", "four"] {
        mixed.world.node(name).await;
    }
    mixed
        .world
        .database
        .execute(&format!(
            "{}UPDATE node_live SET connected = true, beat_at = now() - interval '100 seconds'",
            watched("1 hour")
        ))
        .await;
    assert_eq!(broken(&mixed.world, Depth::Living).await, []);
    mixed.world.database.execute("UPDATE node_live SET beat_at = now() - interval '190 seconds'").await;
    assert_eq!(broken(&mixed.world, Depth::Living).await.len(), 1);
}

#[tokio::test]
async fn a_task_that_is_to_be_replaced_though_its_node_is_back_is_found() {
    planted(&["nothing-waits-for-a-node-that-is-back"], |m| format!("task {} is queued", m.running.0), |m| {
        format!(
            "UPDATE task_state SET queued = true WHERE task_id = '{0}'; UPDATE node_live SET connected_since = now() - interval '61 seconds';
             UPDATE task_events SET at = at - interval '61 seconds' WHERE task_id = '{0}'",
            m.running.0
        )
    })
    .await;
}

#[tokio::test]
async fn a_log_with_a_hole_or_a_double_is_found() {
    planted(
        &["logs-have-no-silent-gap"],
        |m| format!("stream 1 of attempt {}: 2 bytes are missing before byte 7", m.done.2.attempt),
        |m| {
            format!(
                "UPDATE log_chunks SET start = 7, gap = 5 WHERE attempt_id = '{}' AND stream = 1 AND start = 5",
                m.done.2.attempt
            )
        },
    )
    .await;
    planted(
        &["logs-have-no-silent-gap"],
        |_| "bytes are doubled from byte 5 on".into(),
        |m| {
            format!(
                "UPDATE log_chunks SET data = 'hello, hello' WHERE attempt_id = '{}' AND stream = 1 AND start = 0",
                m.done.2.attempt
            )
        },
    )
    .await;
    planted(
        &["log-heads-are-true"],
        |m| format!("stream 2 of attempt {} is stored to byte 4, its head says 9", m.done.2.attempt),
        |m| format!("UPDATE log_heads SET next_offsets[2] = 9 WHERE attempt_id = '{}'", m.done.2.attempt),
    )
    .await;
    planted(
        &["log-heads-are-true"],
        |_| "pieces".into(),
        |m| format!("UPDATE log_heads SET next_ordinal = 9 WHERE attempt_id = '{}'", m.done.2.attempt),
    )
    .await;
    planted(
        &["log-heads-are-true"],
        |_| "and no head".into(),
        |m| format!("DELETE FROM log_heads WHERE attempt_id = '{}'", m.done.2.attempt),
    )
    .await;
}

#[tokio::test]
async fn a_row_that_stands_alone_is_found() {
    type Plant = fn(&Mixed) -> String;
    let stands_alone: [(&str, Plant); 4] = [
        ("is of project", |m| format!("UPDATE tasks SET project_id = gen_random_uuid() WHERE id = '{}'", m.done.0)),
        ("of which nobody knows what it needs", |m| {
            format!("UPDATE task_state SET class = -1 WHERE task_id = '{}'", m.done.0)
        }),
        ("which is not there", |m| {
            format!("UPDATE attempts SET node_id = gen_random_uuid() WHERE id = '{}'", m.done.2.attempt)
        }),
        ("a log is of attempt", |_| "INSERT INTO log_heads (attempt_id) VALUES (gen_random_uuid())".into()),
    ];
    for (words, breach) in stands_alone {
        planted(&["no-row-stands-alone"], |_| words.into(), breach).await;
    }
    planted(
        &["accepted-tasks-are-there", "no-row-stands-alone"],
        |_| "stands without its task".into(),
        |_| {
            "INSERT INTO task_state (task_id, project_id, class, priority, queued_at, queued, state, live_attempt_id, fence, attempts, user_failures,
                infra_failures, node_losses, cancel_requested, message, ended_at)
             SELECT gen_random_uuid(), project_id, class, priority, queued_at, queued, state, live_attempt_id, fence, attempts, user_failures,
                infra_failures, node_losses, cancel_requested, message, ended_at FROM task_state LIMIT 1"
                .into()
        },
    )
    .await;
}

#[tokio::test]
async fn many_breaches_are_counted_and_twenty_are_shown() {
    let world = World::start().await;
    let batch: Vec<_> = (0..30).map(|_| new_task(json!({}))).collect();
    world.store.submit_tasks(&batch).await.expect("accepted");
    world.database.execute("UPDATE task_state SET queue_expires_at = now() - interval '3 minutes'").await;
    let findings = world.store.audit(Depth::Living, WITHIN).await.expect("audited");
    let stuck = findings.iter().find(|finding| finding.id == "no-task-is-stuck").expect("it is asked");
    assert!(matches!(&stuck.outcome, Outcome::Broken { rows, more: 10 } if rows.len() == 20), "{stuck:?}");
    assert_eq!(world.store.audit_counts().await.expect("counted").iter().map(|(_, count)| count).sum::<u64>(), 30);
}

#[tokio::test]
async fn an_audit_that_takes_too_long_says_what_it_did_not_look_at() {
    let world = World::start().await;
    let findings = world.store.audit(Depth::Whole, Duration::ZERO).await.expect("audited");
    assert!(findings.iter().all(|finding| matches!(finding.outcome, Outcome::Unknown(_))), "{findings:?}");
    // A statement that is stopped spoils none that comes after it.
    world.leads(LeaderRole::Sweeper).await;
    assert_eq!(broken(&world, Depth::Whole).await, []);
}

#[tokio::test]
async fn a_count_that_is_not_true_is_found() {
    planted(
        &["counts-are-true"],
        |_| ", 0 tasks are preparing, and 2 are counted".into(),
        |_| "INSERT INTO task_count_changes SELECT id, 'preparing', 2 FROM projects".into(),
    )
    .await;
    planted(
        &["counts-are-true"],
        |_| "tasks are pending, and 0 are counted".into(),
        |_| {
            "DELETE FROM task_count_changes WHERE state = 'pending'; DELETE FROM task_counts WHERE state = 'pending'"
                .into()
        },
    )
    .await;
}

/// An artifact `a@1`, ready, whose object has these columns; without them it has none.
fn an_artifact(object: Option<&str>) -> String {
    let project = "'00000000-0000-0000-0000-000000000001'";
    let object = object.map_or_else(String::new, |columns| {
        format!(
            "INSERT INTO artifact_objects (id, project_id, sha256, parts_digest, size, key, corrupt_at)
             SELECT '00000000-0000-0000-0000-00000000000b', {project}, decode(repeat('11', 32), 'hex'), decode(repeat('22', 32), 'hex'), 7, 'k', NULL;
             UPDATE artifact_objects SET {columns};"
        )
    });
    format!(
        "{object} INSERT INTO artifact_names VALUES ({project}, 'a', 1);
         INSERT INTO artifacts (id, project_id, name, version, kind, state, size, sha256, object_id, media_type, file_name, labels, pinned, created_by,
           created_by_name, ready_at)
         VALUES ('00000000-0000-0000-0000-00000000000a', {project}, 'a', 1, 'file', 'ready', 7, decode(repeat('11', 32), 'hex'),
           '00000000-0000-0000-0000-00000000000b', 'x/y', 'a', '{{}}', false, '00000000-0000-0000-0000-000000000007', 'ana', now());"
    )
}

#[tokio::test]
async fn an_artifact_without_its_bytes_is_found() {
    let world = World::start().await;
    world.database.execute(&an_artifact(Some("key = 'sound'"))).await;
    assert_eq!(broken(&world, Depth::Whole).await, []);
    for (object, says) in [
        (None, "its object is not there"),
        (Some("size = 8"), "has 7 bytes, its object 8"),
        (Some("sha256 = decode(repeat('33', 32), 'hex')"), "of another checksum"),
        (Some("corrupt_at = now()"), "its object is corrupt"),
    ] {
        let world = World::start().await;
        world.database.execute(&an_artifact(object)).await;
        let found = broken(&world, Depth::Whole).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].0 == "ready-artifacts-are-stored" && found[0].1[0].contains(says), "{found:?}");
    }
}

#[tokio::test]
async fn a_version_that_was_never_given_and_an_upload_of_what_is_ready_are_found() {
    let world = World::start().await;
    world.database.execute(&an_artifact(Some("key = 'sound'"))).await;
    world.database.execute("DELETE FROM artifact_names").await;
    let upload = "INSERT INTO artifact_uploads (artifact_id, key, part_size) SELECT id, 'k', 8 FROM artifacts";
    world.database.execute(upload).await;
    let found = broken(&world, Depth::Whole).await;
    let names: Vec<&str> = found.iter().map(|(id, _)| *id).collect();
    assert_eq!(names, ["versions-of-artifacts-are-unique", "uploads-belong-to-uploading-artifacts"], "{found:?}");
    let world = World::start().await;
    world.database.execute(&an_artifact(Some("key = 'sound'"))).await;
    let double = "ALTER TABLE artifacts DROP CONSTRAINT artifacts_version_unique;
                  CREATE TEMP TABLE copy AS SELECT * FROM artifacts; UPDATE copy SET id = gen_random_uuid(); INSERT INTO artifacts SELECT * FROM copy";
    world.database.execute(double).await;
    let found = broken(&world, Depth::Whole).await;
    assert!(found[0].0 == "versions-of-artifacts-are-unique" && found[0].1[0].contains("a@1"), "{found:?}");
}

#[tokio::test]
async fn a_success_without_its_outputs_is_found() {
    planted(
        &["successes-have-their-outputs"],
        |m| format!("attempt {} of task {} has succeeded with 0 of 2 outputs", m.done.2.attempt, m.done.0),
        |m| {
            let exit = r#"{"code": 0, "outputs_due": 2}"#;
            format!("UPDATE attempts SET exit = '{exit}' WHERE id = '{}'", m.done.2.attempt)
        },
    )
    .await;
    planted(
        &["successes-have-their-outputs"],
        |m| format!("attempt {} counts 1 outputs and has 0", m.running.1.attempt),
        |m| format!("UPDATE attempts SET outputs_stored = 1 WHERE id = '{}'", m.running.1.attempt),
    )
    .await;
}

#[tokio::test]
async fn a_removed_input_of_a_live_task_and_an_output_that_is_there_twice_are_found() {
    let read =
        |task: TaskId| format!("INSERT INTO task_inputs VALUES ('00000000-0000-0000-0000-00000000000a', '{task}')");
    planted(
        &["what-live-tasks-read-is-kept"],
        |m| {
            format!(
                "task {} is pending and reads artifact 00000000-0000-0000-0000-00000000000a, which is not there",
                m.waiting
            )
        },
        |m| format!("{}; {}", read(m.waiting), read(m.done.0)),
    )
    .await;
    let twice = |attempt, fence: i64| {
        format!(
            "{} UPDATE artifacts SET attempt_id = '{attempt}', fence = {fence}, output_index = 0;
             CREATE TEMP TABLE copy AS SELECT * FROM artifacts; UPDATE copy SET id = gen_random_uuid(), version = 2;
             INSERT INTO artifacts SELECT * FROM copy; UPDATE artifact_names SET newest = 2;
             UPDATE attempts SET outputs_stored = 1 WHERE id = '{attempt}'",
            an_artifact(Some("key = 'sound'"))
        )
    };
    planted(
        &["checkpoints-are-of-their-tasks"],
        |m| format!("a checkpoint of task {}, and of attempt {} of task {}", m.waiting, m.done.2.attempt, m.done.0),
        |m| {
            let (attempt, fence) = (m.done.2.attempt, m.done.2.fence.get());
            let of = format!("attempt_id = '{attempt}', fence = {fence}, checkpoint_of = '{}'", m.waiting);
            format!("{} UPDATE artifacts SET {of}", an_artifact(Some("key = 'sound'")))
        },
    )
    .await;
    planted(
        &["outputs-are-of-their-attempts"],
        |m| format!("2 artifacts are output 0 of attempt {}", m.done.2.attempt),
        |m| twice(m.done.2.attempt, m.done.2.fence.get()),
    )
    .await;
}

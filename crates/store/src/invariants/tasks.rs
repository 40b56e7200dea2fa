//! Of tasks: each is accepted once, is in one state, and its history tells how it came there.

use super::{Depth, Invariant, history, invariant};

pub(super) const INVARIANTS: &[Invariant] = &[
    invariant!(
        Whole,
        "accepted-tasks-are-there",
        "Every task that was accepted is in exactly one state, and none is there that was not accepted.",
        r#"SELECT 'task ' || t.id || ' was accepted and is in no state' AS "row!"
           FROM tasks t WHERE NOT EXISTS (SELECT FROM task_state s WHERE s.task_id = t.id)
           UNION ALL
           SELECT 'task ' || s.task_id || ' is ' || s.state || ', and no entry tells that it was submitted'
           FROM task_state s WHERE NOT EXISTS (SELECT FROM task_events e WHERE e.task_id = s.task_id AND e.events::jsonb @> '[{"event": "submitted"}]')
           UNION ALL
           SELECT 'task ' || e.task_id || ' was submitted, by entry ' || e.id || ', and is gone'
           FROM task_events e WHERE e.events::jsonb @> '[{"event": "submitted"}]' AND NOT EXISTS (SELECT FROM tasks t WHERE t.id = e.task_id)"#
    ),
    invariant!(
        Whole,
        "no-row-stands-alone",
        "Every row of a task, of an attempt or of a log belongs to one that is there.",
        r#"SELECT 'task ' || t.id || ' is of project ' || t.project_id || ', which is not there' AS "row!"
           FROM tasks t WHERE NOT EXISTS (SELECT FROM projects p WHERE p.id = t.project_id)
           UNION ALL
           SELECT 'the state of task ' || s.task_id || ' stands without its task'
           FROM task_state s WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.id = s.task_id)
           UNION ALL
           SELECT 'task ' || s.task_id || ' waits in class ' || s.class || ', of which nobody knows what it needs'
           FROM task_state s WHERE NOT EXISTS (SELECT FROM requirement_classes r WHERE r.id = s.class)
           UNION ALL
           SELECT 'attempt ' || a.id || ' is of task ' || a.task_id || ', which is not there'
           FROM attempts a WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.id = a.task_id)
           UNION ALL
           SELECT 'attempt ' || a.id || ' is on node ' || a.node_id || ', which is not there'
           FROM attempts a WHERE NOT EXISTS (SELECT FROM nodes n WHERE n.id = a.node_id)
           UNION ALL
           SELECT 'a log is of attempt ' || h.attempt_id || ', which is not there'
           FROM log_heads h WHERE NOT EXISTS (SELECT FROM attempts a WHERE a.id = h.attempt_id)
           UNION ALL
           SELECT 'an archived log is of attempt ' || r.attempt_id || ', which is not there'
           FROM log_archive r WHERE NOT EXISTS (SELECT FROM attempts a WHERE a.id = r.attempt_id)"#
    ),
    invariant!(
        Living,
        "keys-name-tasks",
        "Every idempotency key names a task that is there, or was old enough to be deleted.",
        r#"SELECT 'key ' || quote_literal(k.key) || ' of project ' || k.project_id || ' names task ' || k.task_id || ', which is not there' AS "row!"
           FROM (SELECT project_id, key, task_id FROM idempotency_keys
                 UNION ALL SELECT project_id, key, unnest(task_ids) FROM idempotency_batches) AS k(project_id, key, task_id)
           WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.id = k.task_id)
             AND NOT EXISTS (SELECT FROM cluster c WHERE k.task_id <= c.tasks_expired_to)"#
    ),
    Invariant {
        id: "histories-are-lawful",
        says: "Every history goes by the rules, from the submission to the last entry.",
        depth: Depth::Whole,
        broken: history::unlawful,
    },
    invariant!(
        Whole,
        "states-are-told",
        "Every task is in the state that its last entry tells.",
        r#"SELECT 'task ' || s.task_id || ' is ' || s.state || ', but its last entry (' || e.id || ') says ' || e.state AS "row!"
           FROM task_state s JOIN LATERAL (
             SELECT id, state FROM task_events WHERE task_id = s.task_id ORDER BY id DESC LIMIT 1) AS e ON true
           WHERE e.state <> s.state"#
    ),
    invariant!(
        Whole,
        "ended-tasks-rest",
        "A task that has ended waits for nothing and holds nothing, and no other has an end.",
        r#"SELECT 'task ' || task_id || ' is ' || state || CASE WHEN ended_at IS NULL THEN ' without a time of its end' ELSE '' END
             || CASE WHEN queued THEN ' and queued' ELSE '' END || COALESCE(' and names attempt ' || live_attempt_id, '') AS "row!"
           FROM task_state WHERE state IN ('succeeded', 'failed', 'cancelled') AND (ended_at IS NULL OR queued OR live_attempt_id IS NOT NULL)
           UNION ALL
           SELECT 'task ' || task_id || ' is ' || state || ' and has ended at ' || ended_at
           FROM task_state WHERE state NOT IN ('succeeded', 'failed', 'cancelled') AND ended_at IS NOT NULL"#
    ),
    invariant!(
        Whole,
        "ended-by-one-attempt",
        "An ended task was decided by its last attempt, unless it ended while it waited, and by no other.",
        r#"SELECT 'task ' || s.task_id || ' is ' || s.state || ', but its last attempt is ' || COALESCE(a.state, 'none') AS "row!"
           FROM task_state s LEFT JOIN attempts a ON a.task_id = s.task_id AND a.number = s.attempts
           WHERE s.state = 'succeeded' AND a.state IS DISTINCT FROM 'succeeded'
              OR s.state = 'failed' AND s.failure IS DISTINCT FROM 'queue_timeout' AND COALESCE(a.state, 'none') NOT IN ('failed', 'lost')
           UNION ALL
           SELECT 'task ' || a.task_id || ' has ' || count(*) || ' attempts that succeeded' FROM attempts a WHERE a.state = 'succeeded'
           GROUP BY a.task_id
           HAVING count(*) > 1 + (SELECT count(*) FROM task_events e WHERE e.task_id = a.task_id AND e.events::jsonb @> '[{"event": "retry_asked"}]')"#
    ),
    invariant!(
        Whole,
        "counts-are-true",
        "As many tasks as are counted are in each state.",
        r#"SELECT 'of project ' || project_id || ', ' || COALESCE(t.tasks, 0) || ' tasks are ' || state || ', and '
             || COALESCE(c.tasks, 0) || ' are counted' AS "row!"
           FROM (SELECT project_id, state, count(*) AS tasks FROM task_state GROUP BY project_id, state) AS t
           FULL JOIN (SELECT project_id, state, sum(tasks) AS tasks FROM (
             SELECT project_id, state, tasks FROM task_counts UNION ALL SELECT project_id, state, change FROM task_count_changes) AS all_of_them
             GROUP BY project_id, state) AS c USING (project_id, state)
           WHERE COALESCE(t.tasks, 0) <> COALESCE(c.tasks, 0)"#
    ),
    // A node that is away is waited for as long as the task says, and nobody can stop what runs there.
    invariant!(
        Living,
        "no-task-is-stuck",
        "No task outlives its timeouts by 120 s while its node is there.",
        r#"SELECT 'task ' || s.task_id || ' waits since ' || s.queued_at || ', its queue_timeout ended at ' || s.queue_expires_at AS "row!"
           FROM task_state s WHERE s.queued AND s.state = 'pending' AND s.queue_expires_at < now() - interval '120 seconds'
           UNION ALL
           SELECT 'task ' || s.task_id || ' is ' || s.state || ' in attempt ' || a.id || ', started at ' || a.started_at || ' with a timeout of '
             || ((t.spec->>'timeout_ms')::bigint / 1000) || ' s'
           FROM task_state s JOIN tasks t ON t.id = s.task_id JOIN attempts a ON a.id = s.live_attempt_id JOIN node_live l ON l.node_id = a.node_id
           WHERE s.ended_at IS NULL AND l.connected AND l.connected_since < now() - interval '120 seconds'
             AND a.started_at + ((t.spec->>'timeout_ms')::bigint + COALESCE((t.spec->'stop'->>'grace_ms')::bigint, 0)) * interval '1 millisecond'
               < now() - interval '120 seconds'
           UNION ALL
           SELECT 'task ' || s.task_id || ' was placed at ' || a.placed_at || ' as attempt ' || a.id || ', and its node never took it'
           FROM task_state s JOIN attempts a ON a.id = s.live_attempt_id JOIN node_live l ON l.node_id = a.node_id
           WHERE s.ended_at IS NULL AND a.accepted_at IS NULL AND l.connected
             AND GREATEST(a.placed_at, l.connected_since) < now() - interval '120 seconds'"#
    ),
];

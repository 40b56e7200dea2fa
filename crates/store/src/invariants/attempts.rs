//! Of attempts: one lives, fences only grow, and what has ended rests.

use super::{Invariant, invariant};

pub(super) const INVARIANTS: &[Invariant] = &[
    invariant!(
        Living,
        "one-live-attempt",
        "A task has at most one live attempt.",
        r#"SELECT 'task ' || task_id || ' has ' || count(*) || ' live attempts: ' || string_agg(id::text, ', ' ORDER BY number) AS "row!"
           FROM attempts WHERE ended_at IS NULL GROUP BY task_id HAVING count(*) > 1"#
    ),
    invariant!(
        Living,
        "live-attempts-are-named",
        "A live attempt is the one that its task names, and both are in the same state.",
        r#"SELECT 'attempt ' || a.id || ' lives, but its task ' || a.task_id || ' names ' || COALESCE(s.live_attempt_id::text, 'none') AS "row!"
           FROM attempts a JOIN task_state s ON s.task_id = a.task_id WHERE a.ended_at IS NULL AND s.live_attempt_id IS DISTINCT FROM a.id
           UNION ALL
           SELECT 'task ' || s.task_id || ' names attempt ' || s.live_attempt_id || ', which does not live'
           FROM task_state s WHERE s.ended_at IS NULL AND s.live_attempt_id IS NOT NULL
             AND NOT EXISTS (SELECT FROM attempts a WHERE a.id = s.live_attempt_id AND a.task_id = s.task_id AND a.ended_at IS NULL)
           UNION ALL
           SELECT 'task ' || s.task_id || ' is ' || s.state || ' and its attempt ' || COALESCE(a.id || ' is ' || a.state, 'is nowhere')
           FROM task_state s LEFT JOIN attempts a ON a.id = s.live_attempt_id
           WHERE s.ended_at IS NULL AND CASE WHEN s.live_attempt_id IS NULL THEN s.state NOT IN ('pending', 'succeeded', 'failed', 'cancelled')
             ELSE a.ended_at IS NULL AND a.state <> s.state END"#
    ),
    invariant!(
        Whole,
        "fences-are-the-tasks",
        "No attempt has a fence above its task's, the live one has it, and none is of an epoch that is still to come.",
        r#"SELECT 'attempt ' || a.id || ' has fence ' || a.fence || ', its task ' || s.task_id || ' has ' || s.fence AS "row!"
           FROM attempts a JOIN task_state s ON s.task_id = a.task_id
           WHERE a.fence > s.fence OR a.id = s.live_attempt_id AND a.fence <> s.fence
           UNION ALL
           SELECT 'task ' || s.task_id || ' has a fence of epoch ' || (s.fence >> 32) || ', the cluster is in ' || c.epoch
           FROM task_state s, cluster c WHERE s.fence >> 32 > c.epoch"#
    ),
    invariant!(
        Whole,
        "fences-grow",
        "Each attempt of a task has a higher fence than the one before.",
        r#"SELECT 'attempt ' || id || ', number ' || number || ' of task ' || task_id || ', has fence ' || fence || ' after ' || before AS "row!"
           FROM (SELECT id, task_id, number, fence, lag(fence) OVER (PARTITION BY task_id ORDER BY number) AS before FROM attempts) AS a
           WHERE fence <= before"#
    ),
    invariant!(
        Whole,
        "attempts-are-told",
        "Every attempt was placed by one entry of its task's history, and the task counts them all.",
        r#"WITH told AS (
             SELECT e.task_id, (x->>'attempt')::uuid AS attempt FROM task_events e, json_array_elements(e.events) x WHERE x->>'event' = 'placed')
           SELECT 'attempt ' || a.id || ' of task ' || a.task_id || ' is there, and no entry tells of its placement' AS "row!"
           FROM attempts a WHERE NOT EXISTS (SELECT FROM told WHERE told.attempt = a.id AND told.task_id = a.task_id)
           UNION ALL
           SELECT 'attempt ' || told.attempt || ' of task ' || told.task_id || ' was placed, and is not there'
           FROM told WHERE NOT EXISTS (SELECT FROM attempts a WHERE a.id = told.attempt)
           UNION ALL
           SELECT 'task ' || s.task_id || ' counts ' || s.attempts || ' attempts and has ' || count(a.id) || ', the last with number ' || COALESCE(max(a.number), 0)
           FROM task_state s LEFT JOIN attempts a ON a.task_id = s.task_id GROUP BY s.task_id, s.attempts
           HAVING s.attempts <> COALESCE(max(a.number), 0) OR s.attempts <> count(a.id)"#
    ),
    invariant!(
        Whole,
        "ended-attempts-rest",
        "An attempt that has ended stays as it ended.",
        r#"WITH told AS (
             SELECT (x->>'attempt')::uuid AS attempt, x->>'state' AS state FROM task_events e, json_array_elements(e.events) x
             WHERE e.events::jsonb @> '[{"event": "ended"}]' AND x->>'event' = 'ended')
           SELECT 'attempt ' || a.id || ' is ' || a.state || ', but ended as ' || told.state AS "row!"
           FROM told JOIN attempts a ON a.id = told.attempt WHERE a.state <> told.state
           UNION ALL
           SELECT 'attempt ' || a.id || ' is ' || a.state || ', and no entry tells of its end'
           FROM attempts a WHERE a.state IN ('succeeded', 'failed', 'cancelled', 'lost') AND NOT EXISTS (SELECT FROM told WHERE told.attempt = a.id)
           UNION ALL
           SELECT 'attempt ' || id || ' is ' || state || CASE WHEN ended_at IS NULL THEN ' without a time of its end' ELSE ', and has ended at ' || ended_at END
           FROM attempts WHERE (ended_at IS NOT NULL) <> (state IN ('succeeded', 'failed', 'cancelled', 'lost'))
           UNION ALL
           SELECT 'attempt ' || a.id || ' has ended at ' || a.ended_at || ', and something happened to it after that'
           FROM attempts a, LATERAL (SELECT GREATEST(a.accepted_at, a.preparing_at, a.started_at, a.exited_at) AS at) last
           WHERE a.ended_at < last.at AND NOT EXISTS (
             -- A clock that was set back while it ran gives the end an earlier time than what came before it.
             SELECT FROM task_events e WHERE e.task_id = a.task_id AND e.at >= last.at AND e.id <= (
               SELECT min(x.id) FROM task_events x WHERE x.task_id = a.task_id
                 AND x.events::jsonb @> jsonb_build_array(jsonb_build_object('event', 'ended', 'attempt', a.id))))"#
    ),
    invariant!(
        Whole,
        "successes-have-their-outputs",
        "An attempt that has succeeded has stored all that it was to leave, and no attempt counts more than it has stored.",
        r#"SELECT 'attempt ' || id || ' of task ' || task_id || ' has succeeded with ' || COALESCE(outputs_stored, 0) || ' of ' || (exit->>'outputs_due') || ' outputs' AS "row!"
           FROM attempts WHERE state = 'succeeded' AND exit::text LIKE '%outputs_due%' AND COALESCE(outputs_stored, 0) < (exit->>'outputs_due')::int
           UNION ALL
           SELECT 'attempt ' || a.id || ' counts ' || a.outputs_stored || ' outputs and has ' || o.stored
           FROM attempts a CROSS JOIN LATERAL (
             SELECT count(DISTINCT output_index) AS stored FROM artifacts WHERE attempt_id = a.id AND version IS NOT NULL) o
           WHERE a.outputs_stored IS NOT NULL AND a.outputs_stored <> o.stored"#
    ),
];

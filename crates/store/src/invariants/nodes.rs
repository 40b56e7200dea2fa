//! Of nodes: nothing is promised twice, and presence means presence.

use super::{Invariant, invariant};

pub(super) const INVARIANTS: &[Invariant] = &[
    // Room on the disk is what is free at this moment, tasks' own files included: no sum of reservations says anything about it.
    // A node may come back with less than it had: only what was placed since then had to fit.
    invariant!(
        Living,
        "capacity-is-real",
        "What attempts hold on a node is no more than it has, and with what waits there for its place no more than twice that.",
        r#"WITH held AS (
             SELECT a.node_id, r.times, max(a.placed_at) AS newest, sum(COALESCE((a.reservation->>'cpu_millis')::bigint, 0)) AS cpu_millis,
                    sum(COALESCE((a.reservation->>'memory_bytes')::bigint, 0)) AS memory_bytes
             FROM attempts a CROSS JOIN (VALUES (1), (2)) AS r(times)
             WHERE a.reserved AND (r.times = 2 OR NOT COALESCE((a.reservation->>'ahead')::boolean, false)) GROUP BY a.node_id, r.times)
           SELECT 'node ' || n.name || ' (' || n.id || ') has ' || r.capacity || ' ' || r.what || ', and ' || r.held || ' are held' AS "row!"
           FROM held h JOIN nodes n ON n.id = h.node_id JOIN node_live l ON l.node_id = n.id
           CROSS JOIN LATERAL (VALUES
             ('thousandths of a CPU', h.cpu_millis, h.times * COALESCE((n.facts->'capacity'->>'cpu_millis')::bigint, 0)),
             ('bytes of memory', h.memory_bytes, h.times * COALESCE((n.facts->'capacity'->>'memory_bytes')::bigint, 0))) AS r(what, held, capacity)
           WHERE r.held > r.capacity AND h.newest >= l.connected_since
           UNION ALL
           SELECT 'attempt ' || a.id || ' holds GPU ' || gpu || ', which node ' || n.name || ' (' || n.id || ') does not have'
           FROM attempts a JOIN nodes n ON n.id = a.node_id JOIN node_live l ON l.node_id = n.id,
             json_array_elements_text(COALESCE(a.reservation->'gpu_ids', '[]')) AS gpu
           WHERE a.reserved AND a.placed_at >= l.connected_since
             AND NOT COALESCE(n.facts->'capacity'->'gpus', '[]') @> jsonb_build_array(jsonb_build_object('id', gpu))"#
    ),
    invariant!(
        Living,
        "gpus-are-held-once",
        "No GPU is held by two attempts.",
        r#"SELECT 'GPU ' || gpu || ' of node ' || a.node_id || ' is held by ' || string_agg(a.id::text, ', ' ORDER BY a.id) AS "row!"
           FROM attempts a, json_array_elements_text(COALESCE(a.reservation->'gpu_ids', '[]')) AS gpu
           WHERE a.reserved GROUP BY a.node_id, gpu HAVING count(*) > 1"#
    ),
    // Only while somebody could notice the silence: the sweep leads now, and did so all the while, and a gateway was there to hear. Where at least three nodes and
    // half of all are silent at once, the sweep waits for one more period, since then it is rather the platform that does not hear.
    invariant!(
        Living,
        "connected-nodes-beat",
        "A connected node was heard of within 92 s (within 182 s where half of all fell silent at once).",
        r#"WITH connected AS (
             SELECT node_id, beat_at, count(*) OVER () AS nodes, count(*) FILTER (WHERE beat_at < now() - interval '92 seconds') OVER () AS silent
             FROM node_live WHERE connected)
           SELECT 'node ' || n.name || ' (' || n.id || ') is connected, and was last heard of at ' || c.beat_at AS "row!"
           FROM connected c JOIN nodes n ON n.id = c.node_id CROSS JOIN leader s LEFT JOIN platform_presence p ON true
           WHERE s.role = 'sweeper' AND s.renewed_at > now() - interval '5 seconds' AND GREATEST(c.beat_at, s.led_since, p.since)
             < now() - CASE WHEN c.silent >= 3 AND c.silent * 2 >= c.nodes THEN interval '182 seconds' ELSE interval '92 seconds' END"#
    ),
    invariant!(
        Living,
        "nothing-waits-for-a-node-that-is-back",
        "No task waits to be replaced while its node is connected for more than 60 s.",
        r#"SELECT 'task ' || s.task_id || ' is queued to replace attempt ' || a.id || ', whose node ' || a.node_id || ' is connected since '
             || l.connected_since AS "row!"
           FROM task_state s JOIN attempts a ON a.id = s.live_attempt_id JOIN node_live l ON l.node_id = a.node_id
           WHERE s.queued AND l.connected AND l.offline_since IS NULL AND l.connected_since < now() - interval '60 seconds'
             AND (SELECT max(e.at) FROM task_events e WHERE e.task_id = s.task_id) < now() - interval '60 seconds'"#
    ),
];

//! Of logs: every byte once and in its place, and what is missing is said.

use super::{Invariant, invariant};

pub(super) const INVARIANTS: &[Invariant] = &[
    invariant!(
        Whole,
        "logs-have-no-silent-gap",
        "Each stream of a log goes on where it stopped; what is missing has a record of its size.",
        r#"SELECT 'stream ' || stream || ' of attempt ' || attempt_id || ': '
             || CASE WHEN start > expected THEN (start - expected) || ' bytes are missing before byte ' || start
                ELSE (expected - start) || ' bytes are doubled from byte ' || start || ' on' END AS "row!"
           FROM (SELECT attempt_id, stream, start, COALESCE(lag(start + COALESCE(gap, length(data)))
                   OVER (PARTITION BY attempt_id, stream ORDER BY start), 0) AS expected FROM log_chunks) AS c
           WHERE start <> expected"#
    ),
    invariant!(
        Whole,
        "log-heads-are-true",
        "What was acknowledged of a log is stored: its head says where each stream ends and how many pieces there are.",
        r#"WITH stored AS (
             SELECT attempt_id, stream, max(start + COALESCE(gap, length(data))) AS stop FROM log_chunks GROUP BY attempt_id, stream),
           pieces AS (SELECT attempt_id, count(*) AS pieces, max(ordinal) + 1 AS next FROM log_chunks GROUP BY attempt_id)
           SELECT 'stream ' || n || ' of attempt ' || h.attempt_id || ' is stored to byte ' || COALESCE(s.stop, 0) || ', its head says '
             || h.next_offsets[n] AS "row!"
           FROM log_heads h CROSS JOIN LATERAL generate_subscripts(h.next_offsets, 1) AS n
           LEFT JOIN stored s ON s.attempt_id = h.attempt_id AND s.stream = n
           WHERE h.next_offsets[n] <> COALESCE(s.stop, 0)
           UNION ALL
           SELECT 'attempt ' || h.attempt_id || ' has ' || COALESCE(p.pieces, 0) || ' pieces, the last is the ' || COALESCE(p.next, 0) || 'th, its head says '
             || h.next_ordinal
           FROM log_heads h LEFT JOIN pieces p ON p.attempt_id = h.attempt_id
           WHERE h.next_ordinal <> COALESCE(p.next, 0) OR h.next_ordinal <> COALESCE(p.pieces, 0)
           UNION ALL
           SELECT 'attempt ' || p.attempt_id || ' has ' || p.pieces || ' pieces and no head'
           FROM pieces p WHERE NOT EXISTS (SELECT FROM log_heads h WHERE h.attempt_id = p.attempt_id)"#
    ),
];

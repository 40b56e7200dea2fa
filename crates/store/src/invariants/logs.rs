//! Of logs: every byte once and in its place, here or in the archive, and what is missing is said.

use super::{Invariant, invariant};

pub(super) const INVARIANTS: &[Invariant] = &[
    invariant!(
        Whole,
        "logs-have-no-silent-gap",
        "Each stream of a log goes on where it stopped, in the archive and behind it; what is missing has a record of its size.",
        r#"WITH archived AS (
             SELECT attempt_id, max(stdout_end) AS e1, max(stderr_end) AS e2, max(build_end) AS e3, max(system_end) AS e4 FROM log_archive GROUP BY attempt_id)
           SELECT 'stream ' || stream || ' of attempt ' || attempt_id || ': '
             || CASE WHEN start > expected THEN (start - expected) || ' bytes are missing before byte ' || start
                ELSE (expected - start) || ' bytes are doubled from byte ' || start || ' on' END AS "row!"
           FROM (SELECT c.attempt_id, stream, start, COALESCE(lag(start + COALESCE(gap, length(data)))
                   OVER (PARTITION BY c.attempt_id, stream ORDER BY start),
                   CASE stream WHEN 1 THEN e1 WHEN 2 THEN e2 WHEN 3 THEN e3 ELSE e4 END, 0) AS expected
                 FROM log_chunks c LEFT JOIN archived a ON a.attempt_id = c.attempt_id) AS c
           WHERE start <> expected
           UNION ALL
           SELECT 'the archived log of attempt ' || attempt_id || ' goes on with piece ' || first_ordinal || ' where ' || expected || ' is due'
           FROM (SELECT attempt_id, first_ordinal, COALESCE(lag(next_ordinal) OVER w, 0) AS expected FROM log_archive WINDOW w AS (PARTITION BY attempt_id ORDER BY next_ordinal)) AS r
           WHERE first_ordinal <> expected
           UNION ALL
           SELECT 'a stream of the archived log of attempt ' || attempt_id || ' goes back at piece ' || first_ordinal
           FROM (SELECT attempt_id, first_ordinal, COALESCE(stdout_end, 0) >= COALESCE(lag(stdout_end) OVER w, 0) AND COALESCE(stderr_end, 0) >= COALESCE(lag(stderr_end) OVER w, 0)
                   AND COALESCE(build_end, 0) >= COALESCE(lag(build_end) OVER w, 0) AND COALESCE(system_end, 0) >= COALESCE(lag(system_end) OVER w, 0) AS goes_on
                 FROM log_archive WINDOW w AS (PARTITION BY attempt_id ORDER BY next_ordinal)) AS r
           WHERE NOT goes_on"#
    ),
    invariant!(
        Whole,
        "log-heads-are-true",
        "What was acknowledged of a log is stored, here or in the archive: its head says where each stream ends and how many pieces there are.",
        r#"WITH stored AS (
             SELECT attempt_id, stream, max(stop) AS stop FROM (
               SELECT attempt_id, stream, start + COALESCE(gap, length(data)) AS stop FROM log_chunks
               UNION ALL
               SELECT attempt_id, n, (ARRAY[stdout_end, stderr_end, build_end, system_end])[n] FROM log_archive, generate_series(1, 4) AS n) AS s
             WHERE stop IS NOT NULL GROUP BY attempt_id, stream),
           pieces AS (
             SELECT attempt_id, sum(pieces)::bigint AS pieces, max(next) AS next FROM (
               SELECT attempt_id, 1 AS pieces, ordinal + 1 AS next FROM log_chunks
               UNION ALL
               SELECT attempt_id, next_ordinal - first_ordinal, next_ordinal FROM log_archive) AS p GROUP BY attempt_id)
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
    invariant!(
        Whole,
        "archived-logs-are-in-packs",
        "Every archived piece of a log is in a pack that is known, within its size, and each pack counts the pieces that are in it.",
        r#"SELECT 'piece ' || r.first_ordinal || ' of the log of attempt ' || r.attempt_id || ' is in pack ' || r.pack_id || ', which is not there' AS "row!"
           FROM log_archive r WHERE NOT EXISTS (SELECT FROM log_packs p WHERE p.id = r.pack_id)
           UNION ALL
           SELECT 'piece ' || r.first_ordinal || ' of the log of attempt ' || r.attempt_id || ' ends behind the end of its pack ' || p.key
           FROM log_archive r JOIN log_packs p ON p.id = r.pack_id WHERE r.frame_at + r.frame_length::bigint > p.size OR r.piece_at >= r.frame_size
           UNION ALL
           SELECT 'pack ' || p.key || ' counts ' || p.pieces || ' pieces, and ' || COALESCE(r.pieces, 0) || ' are in it'
           FROM log_packs p LEFT JOIN (SELECT pack_id, count(*) AS pieces FROM log_archive GROUP BY pack_id) AS r ON r.pack_id = p.id
           WHERE p.pieces <> COALESCE(r.pieces, 0)
           UNION ALL
           SELECT 'pack ' || p.key || ' is on the list of what is deleted' FROM log_packs p JOIN artifact_garbage g ON g.key = p.key"#
    ),
];

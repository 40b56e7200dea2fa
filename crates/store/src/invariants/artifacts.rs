//! Of artifacts: what is ready is stored, wholly, under its own name.

use super::{Invariant, invariant};

pub(super) const INVARIANTS: &[Invariant] = &[
    invariant!(
        Whole,
        "ready-artifacts-are-stored",
        "A ready artifact has an object of its project, of its size and checksum, that nobody found corrupt.",
        r#"SELECT 'artifact ' || a.id || ' (' || a.name || '@' || COALESCE(a.version::text, '?') || ') is ready, and '
             || CASE WHEN o.id IS NULL THEN 'its object is not there' WHEN o.corrupt_at IS NOT NULL THEN 'its object is corrupt'
                     WHEN o.project_id <> a.project_id THEN 'its object is of another project'
                     ELSE 'has ' || COALESCE(a.size::text, 'no') || ' bytes, its object ' || o.size || CASE WHEN a.sha256 IS DISTINCT FROM o.sha256 THEN ', of another checksum' ELSE '' END
                END AS "row!"
           FROM artifacts a LEFT JOIN artifact_objects o ON o.id = a.object_id
           WHERE a.state = 'ready' AND (o.id IS NULL OR o.corrupt_at IS NOT NULL OR (o.project_id, o.size, o.sha256) IS DISTINCT FROM (a.project_id, a.size, a.sha256))"#
    ),
    invariant!(
        Whole,
        "versions-of-artifacts-are-unique",
        "No two artifacts of one name have the same version, and none is newer than the newest that was given.",
        r#"SELECT 'artifacts ' || string_agg(id::text, ' and ' ORDER BY id) || ' are all ' || name || '@' || version AS "row!"
           FROM artifacts WHERE version IS NOT NULL GROUP BY project_id, name, version HAVING count(*) > 1
           UNION ALL
           SELECT 'artifact ' || a.id || ' is ' || a.name || '@' || a.version || ', and the newest given is ' || COALESCE(n.newest::text, 'none')
           FROM artifacts a LEFT JOIN artifact_names n ON n.project_id = a.project_id AND n.name = a.name
           WHERE a.version > COALESCE(n.newest, 0)"#
    ),
    invariant!(
        Living,
        "uploads-belong-to-uploading-artifacts",
        "An artifact is uploading exactly while there is an upload of it.",
        r#"SELECT 'artifact ' || u.artifact_id || ' is ' || a.state || ', and there is an upload of it' AS "row!"
           FROM artifact_uploads u JOIN artifacts a ON a.id = u.artifact_id WHERE a.state <> 'uploading'"#
    ),
    invariant!(
        Whole,
        "what-live-tasks-read-is-kept",
        "What a task reads is not removed before the task has ended.",
        r#"SELECT 'task ' || i.task_id || ' is ' || s.state || ' and reads artifact ' || i.artifact_id || ', which is ' || COALESCE(a.state, 'not there') AS "row!"
           FROM task_inputs i JOIN task_state s ON s.task_id = i.task_id LEFT JOIN artifacts a ON a.id = i.artifact_id
           WHERE s.ended_at IS NULL AND COALESCE(a.state, '') NOT IN ('ready', 'corrupt')"#
    ),
    invariant!(
        Whole,
        "outputs-are-of-their-attempts",
        "Of each output of an attempt at most one artifact is uploaded or ready, and it has the attempt's fence.",
        r#"SELECT count(*) || ' artifacts are output ' || output_index || ' of attempt ' || attempt_id || ': ' || string_agg(id::text, ', ' ORDER BY id) AS "row!"
           FROM artifacts WHERE attempt_id IS NOT NULL AND output_index IS NOT NULL AND state IN ('uploading', 'ready')
           GROUP BY attempt_id, output_index HAVING count(*) > 1
           UNION ALL
           SELECT 'artifact ' || r.id || ' has fence ' || COALESCE(r.fence::text, 'none') || ', its attempt ' || a.id || ' has ' || a.fence
           FROM artifacts r JOIN attempts a ON a.id = r.attempt_id WHERE r.fence IS DISTINCT FROM a.fence"#
    ),
    invariant!(
        Whole,
        "checkpoints-are-of-their-tasks",
        "What an attempt stores is an output or a checkpoint of its own task, and it uploads one checkpoint at a time.",
        r#"SELECT 'artifact ' || r.id || ' is ' || CASE WHEN r.checkpoint_of IS NULL THEN 'no output and no checkpoint' ELSE 'a checkpoint of task ' || r.checkpoint_of END
             || CASE WHEN r.output_index IS NOT NULL THEN ' and output ' || r.output_index ELSE '' END || ', and of '
             || CASE WHEN r.attempt_id IS NULL THEN 'no attempt' ELSE 'attempt ' || r.attempt_id || COALESCE(' of task ' || a.task_id, '') END AS "row!"
           FROM artifacts r LEFT JOIN attempts a ON a.id = r.attempt_id
           WHERE (r.attempt_id IS NOT NULL OR r.checkpoint_of IS NOT NULL)
             AND (r.attempt_id IS NULL OR num_nonnulls(r.output_index, r.checkpoint_of) <> 1 OR r.checkpoint_of <> a.task_id)
           UNION ALL
           SELECT count(*) || ' checkpoints of attempt ' || attempt_id || ' are uploaded at one time: ' || string_agg(id::text, ', ' ORDER BY id)
           FROM artifacts WHERE checkpoint_of IS NOT NULL AND state = 'uploading' GROUP BY attempt_id HAVING count(*) > 1"#
    ),
];

-- :tasks tasks, of which :waiting wait and :running run on :nodes nodes; the others ended. As after a long life: ids grow with time,
-- rows lie where an update put them, thousand by thousand.
CREATE FUNCTION pg_temp.id_of(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid $$;

INSERT INTO projects (id, slug) SELECT pg_temp.id_of(-n), 'team-' || n FROM generate_series(1, 20) n;
INSERT INTO api_keys (id, project_id, created_by, name, role, secret_hash)
SELECT pg_temp.id_of(n), '00000000-0000-0000-0000-000000000001', pg_temp.id_of(n - 1), 'key-' || n, 'member', '\x00' FROM generate_series(1, 5000) n;
INSERT INTO requirement_classes (id, needs) SELECT n, jsonb_set(needs, '{requirements,priority_of_seed}', to_jsonb(n))
FROM (SELECT needs FROM requirement_classes LIMIT 1) c, generate_series(1, 150) n;

INSERT INTO nodes (id, project_id, name, facts)
SELECT pg_temp.id_of(n), '00000000-0000-0000-0000-000000000001', 'node-' || substr(md5(n::text), 1, 8), facts
FROM generate_series(1, :nodes) n, (SELECT facts FROM nodes LIMIT 1) f ORDER BY md5(n::text);
INSERT INTO node_live (node_id, instance, session_epoch, connected, connected_since, beat_at, metrics)
SELECT pg_temp.id_of(n), pg_temp.id_of(n), 1, true, now(), now(), metrics
FROM generate_series(1, :nodes) n, (SELECT metrics FROM node_live LIMIT 1) f ORDER BY md5(n::text);

-- What each is: the newest wait, but for a few; before them some run; among the others one of a hundred failed.
CREATE TEMP TABLE seeded AS
SELECT n, pg_temp.id_of(n) AS id, pg_temp.id_of(n + 500) AS attempt, pg_temp.id_of(1 + n % :nodes) AS node,
       CASE WHEN n % 50 = 7 THEN pg_temp.id_of(-(1 + n / 50 % 20)) ELSE '00000000-0000-0000-0000-000000000001'::uuid END AS project,
       CASE WHEN n > :tasks - :waiting THEN 'pending' WHEN n > :tasks - :waiting - :running THEN 'running'
            WHEN n % 100 = 3 THEN 'failed' WHEN n % 1000 = 4 THEN 'cancelled' ELSE 'succeeded' END AS state,
       CASE WHEN n % 5000 = 11 THEN 'rare' WHEN n % 3 = 0 THEN 'nightly'
            WHEN n < :tasks / 5 THEN 'archive-' || n % 2 ELSE 'sweep-' || n % 1000 END AS name,
       CASE WHEN n % 5000 = 12 THEN '{"team": "rare"}' WHEN n % 4 = 0 THEN '{"team": "vision"}' ELSE '{}' END::jsonb AS metadata
FROM generate_series(1, :tasks) n ORDER BY n / 1000, md5(n::text);

INSERT INTO tasks (id, project_id, created_by, name, spec, metadata, created_at)
SELECT s.id, s.project, t.created_by, s.name, t.spec, s.metadata, now() - (:tasks - s.n) * interval '1 second'
FROM seeded s, (SELECT * FROM tasks LIMIT 1) t;
INSERT INTO task_state (task_id, project_id, class, priority, queued_at, queued, state, live_attempt_id, fence, attempts, user_failures,
                        infra_failures, node_losses, cancel_requested, failure, exit_code, message, ended_at)
SELECT id, project, 1 + n % 150, CASE WHEN n % 10 = 0 THEN 10 ELSE 0 END, now() - (:tasks - n) * interval '1 second', state = 'pending', state,
       CASE WHEN state = 'running' THEN attempt END, n, CASE WHEN state = 'pending' THEN 0 ELSE 1 END, 0, 0, 0, false,
       CASE WHEN state = 'failed' THEN 'exit_nonzero' END, CASE state WHEN 'failed' THEN 1 WHEN 'succeeded' THEN 0 END, '',
       CASE WHEN state NOT IN ('pending', 'running') THEN now() END
FROM seeded;
INSERT INTO attempts (id, task_id, number, node_id, fence, state, reservation, reserved, placed_at, started_at, ended_at)
SELECT attempt, id, 1, node, n, state, '{"cpu_millis": 1000, "memory_bytes": 1048576, "disk_bytes": 0, "gpu_ids": []}', state = 'running',
       now(), now(), CASE WHEN state <> 'running' THEN now() END
FROM seeded WHERE state <> 'pending';
INSERT INTO log_heads (attempt_id, next_offsets) SELECT attempt, '{100,0,0,0}' FROM seeded WHERE state <> 'pending';
-- What was written lately was written by many transactions; who follows no longer asks for the rest.
INSERT INTO task_events (task_id, project_id, state, events, xid)
SELECT id, project, 'pending', '[{"event": "submitted"}]',
       CASE WHEN n > :tasks - 40000 THEN 3 + (n - :tasks + 40000) * (pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 4) / 40000 ELSE 0 END::text::xid8
FROM seeded ORDER BY n;
INSERT INTO task_events (task_id, project_id, state, events, xid)
SELECT id, project, state, '[{"event": "cancel_requested"}]', '0' FROM seeded WHERE state NOT IN ('pending', 'running');
DROP TABLE seeded;

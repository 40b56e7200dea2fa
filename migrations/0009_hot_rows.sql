-- What every task costs: fewer index entries, fewer rows, and no lock on a row that all tasks share.

-- A foreign key makes each insert lock a row of its parent: for every task of the platform the same one of `projects` and of
-- `requirement_classes`, and a page written for it. Each of these rows is written by one function that has just read its parent,
-- no parent is ever deleted, and `unidesk audit` finds a row that stands alone.
ALTER TABLE tasks DROP CONSTRAINT tasks_project_id_fkey;
ALTER TABLE task_state DROP CONSTRAINT task_state_task_id_fkey, DROP CONSTRAINT task_state_class_fkey;
ALTER TABLE attempts DROP CONSTRAINT attempts_task_id_fkey, DROP CONSTRAINT attempts_node_id_fkey;
ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_project_id_fkey;
ALTER TABLE log_heads DROP CONSTRAINT log_heads_attempt_id_fkey;

-- People type about eight digits of an id's end; the rest is compared.
CREATE INDEX tasks_id_end ON tasks (reverse(right(id::text, 8)) text_pattern_ops);
DROP INDEX tasks_id_ending;
-- Most tasks have no labels.
DROP INDEX tasks_metadata;
CREATE INDEX tasks_metadata ON tasks USING gin (metadata jsonb_path_ops) WHERE metadata <> '{}';
-- On the row that never changes: each change of the hot one would write an entry here.
CREATE INDEX tasks_project ON tasks (project_id, id);
DROP INDEX task_state_project;

-- Rows that change a few times each, by the million: their old versions are cleared in small, frequent steps, and what is only
-- ever added is made visible to index-only scans in time.
ALTER TABLE task_state SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE attempts SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE log_heads SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

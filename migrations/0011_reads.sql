-- Reads whose cost does not grow with the history: tasks are counted as they change, and those that live are found by their ids.

-- How many tasks of each project are in each state: what was counted up to a moment, and what changed since. A transaction adds a row
-- for each state whose number it changed and locks none, so no two wait for each other; the node-registry adds them up every second. The
-- sum of both is exact at every moment.
CREATE TABLE task_counts (
    project_id  uuid NOT NULL,
    state       text NOT NULL,
    tasks       bigint NOT NULL,
    PRIMARY KEY (project_id, state)
) WITH (fillfactor = 50);
CREATE TABLE task_count_changes (
    project_id  uuid NOT NULL,
    state       text NOT NULL,
    change      bigint NOT NULL
);

-- By the statement, not by the row, and here rather than in the services: whoever writes a state is counted, also by a way that is not
-- there yet, and it costs no round trip.
CREATE FUNCTION count_tasks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO task_count_changes SELECT project_id, state, count(*) FROM new_rows GROUP BY project_id, state;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO task_count_changes SELECT project_id, state, -count(*) FROM old_rows GROUP BY project_id, state;
    ELSE
        INSERT INTO task_count_changes SELECT project_id, state, sum(change) FROM (
            SELECT project_id, state, 1 AS change FROM new_rows UNION ALL SELECT project_id, state, -1 FROM old_rows) AS changed
        GROUP BY project_id, state HAVING sum(change) <> 0;
    END IF;
    RETURN NULL;
END $$;
-- The triggers first: they lock the table against writers until what is there is counted.
CREATE TRIGGER count_new AFTER INSERT ON task_state REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_tasks();
CREATE TRIGGER count_changed AFTER UPDATE ON task_state REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_tasks();
CREATE TRIGGER count_gone AFTER DELETE ON task_state REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_tasks();
INSERT INTO task_counts SELECT project_id, state, count(*) FROM task_state GROUP BY project_id, state;

-- What lives, by its id: it waits, or an attempt of it holds something. Both predicates are those of indexes that are there already and
-- change when a task is placed and when its node has released it, so no update becomes dearer in kind; the end of a task touches neither.
DROP INDEX IF EXISTS task_state_live;
CREATE INDEX task_state_waiting ON task_state (task_id) WHERE queued;
CREATE INDEX attempts_holding_task ON attempts (task_id) WHERE reserved;

-- Entries that wait to be sorted in are read by every look, one after the other: 500 pages of them by default.
ALTER INDEX tasks_metadata SET (gin_pending_list_limit = 256);

-- In the order of bytes, so that both a whole name and a beginning are a range of the index, in whose order (name, id) pages go on.
DROP INDEX tasks_name;
CREATE INDEX tasks_name ON tasks (name COLLATE "C", id);

-- Nodes are few and rarely written, but a page of them and one of them are asked for without reading all.
CREATE INDEX nodes_name ON nodes (name COLLATE "C", id);
CREATE INDEX nodes_id_end ON nodes (reverse(right(id::text, 8)) text_pattern_ops);

-- What every task costs, once more: no index names a column that changes when an attempt moves on or ends, so these changes write no
-- index entry at all (HOT) where the page has room.

-- Its predicate changed with every end. Who looks for live tasks finds them by `queued`, or by the attempts that hold something.
DROP INDEX task_state_live;
-- The second wall behind `task_state.live_attempt_id` stands in the statement that inserts attempts now.
DROP INDEX attempts_one_live;
-- An attempt grows when it ends: room for its last version beside its first.
ALTER TABLE attempts SET (fillfactor = 50);
-- By age too: what is new on a node is found without a look at what it has.
CREATE INDEX attempts_on_node ON attempts (node_id, id) WHERE reserved;
DROP INDEX attempts_holding;
-- The sweep asks every node for its exclusive work: mostly there is none, whatever else runs there.
CREATE INDEX attempts_exclusive ON attempts (node_id) WHERE reserved AND offline_after_ms IS NOT NULL;

-- History is read by task and by transaction, never by number alone.
ALTER TABLE task_events DROP CONSTRAINT task_events_pkey;
DROP INDEX task_events_task;
ALTER TABLE task_events ADD PRIMARY KEY (task_id, id);

-- Whether two processes of the task may never live at once, so that placing a task opens no spec. Null: see the spec (the row is of an
-- earlier version).
ALTER TABLE task_state ADD COLUMN exclusive boolean;

-- Written in the order of time and asked for by time only: a summary of each block of pages does, where a tree had an entry for each row.
DROP INDEX idempotency_keys_age;
CREATE INDEX idempotency_keys_age ON idempotency_keys USING brin (created_at) WITH (pages_per_range = 16, autosummarize = on);

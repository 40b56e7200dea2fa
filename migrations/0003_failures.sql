-- What happens after an attempt goes wrong: suspicion of poison, nodes that fail everything, drains with a deadline.

-- The node that went down while the task ran there, soon after its start. A second one, and the task is held for poison.
ALTER TABLE task_state ADD COLUMN died_with uuid;

-- The last heartbeat before the present session: how long a node was away that is back.
ALTER TABLE node_live ADD COLUMN away_from timestamptz;

-- When what still runs on a draining node is moved.
ALTER TABLE nodes ADD COLUMN drain_deadline timestamptz;

-- What failed on a node lately, and the rule's cordon. A healthy node has no row. It stands apart from `nodes.admission`, so that the
-- rule never lifts what a person has set.
CREATE TABLE node_faults (
    node_id     uuid PRIMARY KEY REFERENCES nodes,
    record      jsonb NOT NULL
);

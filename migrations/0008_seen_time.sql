-- Time as the sweeps measure it, by clocks that nobody sets: it stands still while nobody sweeps, and no step of the database's own
-- clock moves it. What must have passed before work may run elsewhere is counted in it.
ALTER TABLE sweep ADD COLUMN seen_ms bigint NOT NULL DEFAULT 0;

-- When the node was called offline, in that time. Null: the next sweep says.
ALTER TABLE node_live ADD COLUMN offline_at_ms bigint;

-- Exclusive tasks of which a process may be alive somewhere where nobody can ask, and for how long after the next sweep. It deletes
-- what is over.
CREATE TABLE exclusive_waits (
    task_id          uuid PRIMARY KEY REFERENCES tasks,
    replace_after_ms bigint NOT NULL,
    offline_after_ms bigint NOT NULL,
    until_ms         bigint
);

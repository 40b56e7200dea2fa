-- The feed of all tasks' events. Numbers of one sequence become visible out of order: a transaction that took a lower one may
-- commit later, and a reader who remembers the highest number it saw misses it. So each entry names the transaction that wrote
-- it, and a reader remembers a snapshot: new is what was not visible then and is now.
--
-- Entries from before this migration carry 0: visible to every snapshot that a reader can hold. (A constant first, then the
-- default, so that no row is written anew. Whoever loads a dump into another server sets the column to 0 there, for the same reason.)
ALTER TABLE task_events ADD COLUMN xid xid8 NOT NULL DEFAULT '0';
ALTER TABLE task_events ALTER COLUMN xid SET DEFAULT pg_current_xact_id();
CREATE INDEX task_events_xid ON task_events (xid) WHERE xid > '0';

-- Since when the holder leads without a break: what the platform could not see while nobody led is no fault of a node's.
ALTER TABLE leader ADD COLUMN led_since timestamptz NOT NULL DEFAULT now();

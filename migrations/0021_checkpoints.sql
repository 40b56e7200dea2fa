-- What tasks keep while they run.

-- The task that goes on from it. It is asked for by its task, whose attempts may be gone before it is.
ALTER TABLE artifacts ADD COLUMN checkpoint_of uuid;
-- Those that are not removed: a task that runs for a week takes a thousand, and keeps two.
CREATE INDEX artifacts_checkpoints ON artifacts (checkpoint_of, version)
    WHERE checkpoint_of IS NOT NULL AND state IN ('uploading', 'ready', 'corrupt');

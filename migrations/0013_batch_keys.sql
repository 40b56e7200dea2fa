-- The key of a batch stands for each of its tasks by their places in it. One row for all of them, where it was a row and an index entry for
-- each.
CREATE TABLE idempotency_batches (
    project_id      uuid NOT NULL,
    key             text NOT NULL,
    created_by      uuid NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- Of each task: its place, the SHA-256 of its request (32 bytes each, one after the other), its id.
    places          int[] NOT NULL,
    request_hashes  bytea NOT NULL,
    task_ids        uuid[] NOT NULL,
    PRIMARY KEY (project_id, key)
);
-- Hashes and random ids can't be made shorter: not tried.
ALTER TABLE idempotency_batches ALTER places SET STORAGE EXTERNAL, ALTER request_hashes SET STORAGE EXTERNAL, ALTER task_ids SET STORAGE EXTERNAL;
CREATE INDEX idempotency_batches_age ON idempotency_batches USING brin (created_at) WITH (pages_per_range = 16, autosummarize = on);

-- Until now a place was a part of the key, after a space, which no caller's key has.
INSERT INTO idempotency_batches (project_id, key, created_by, created_at, places, request_hashes, task_ids)
SELECT project_id, split_part(key, ' ', 1), (array_agg(created_by))[1], min(created_at), array_agg(split_part(key, ' ', 2)::int ORDER BY task_id),
       string_agg(request_hash, '' ORDER BY task_id), array_agg(task_id ORDER BY task_id)
FROM idempotency_keys WHERE strpos(key, ' ') > 0 GROUP BY 1, 2;
DELETE FROM idempotency_keys WHERE strpos(key, ' ') > 0;

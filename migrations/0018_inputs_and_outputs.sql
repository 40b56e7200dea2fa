-- What tasks read and what they leave.

-- How many outputs of an attempt are ready. Null: none. No default, so that a row of a task without any is as large as before.
ALTER TABLE attempts ADD COLUMN outputs_stored integer;

-- Which of its task's outputs an artifact is; attempt and fence say of whom. At most one of each is uploading or ready: whoever begins one
-- has the task's lock.
ALTER TABLE artifacts ADD COLUMN output_index integer;
CREATE INDEX artifacts_of_attempt ON artifacts (attempt_id, output_index) WHERE attempt_id IS NOT NULL;

-- Given up when the attempt has ended.
ALTER TABLE artifact_uploads ADD COLUMN attempt_id uuid;
CREATE INDEX artifact_uploads_of_attempts ON artifact_uploads (attempt_id, artifact_id) WHERE attempt_id IS NOT NULL;

-- What tasks read, so that nothing is removed that a live one needs. Of tasks that have ended a row may be there or not.
CREATE TABLE task_inputs (
    artifact_id uuid NOT NULL,
    task_id     uuid NOT NULL,
    PRIMARY KEY (artifact_id, task_id)
);
CREATE INDEX task_inputs_of_task ON task_inputs (task_id);

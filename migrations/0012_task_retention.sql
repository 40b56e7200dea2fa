-- Ended tasks may be deleted by age. Up to this id one that is named somewhere (by an idempotency key, which has an age of its own) and
-- is not there was deleted; above it, it is missing.
ALTER TABLE cluster ADD COLUMN tasks_expired_to uuid;

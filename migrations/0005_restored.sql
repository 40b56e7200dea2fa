-- When this database was restored from a backup the last time. Until every node that was there has said hello since, or is offline,
-- nothing is placed: what waits here may be running there.
ALTER TABLE cluster ADD COLUMN restored_at timestamptz;

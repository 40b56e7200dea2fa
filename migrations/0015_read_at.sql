-- When what a sweep wrote last was read, by the database's clock. A later moment than now tells the sweeper that leads next that the clock
-- was set back and that nobody has written it yet. NULL: before the first sweep of this version.
ALTER TABLE sweep ADD COLUMN read_at timestamptz;

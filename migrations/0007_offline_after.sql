-- The silence after which a node is offline, once for the whole platform: services that were told different values would call a node
-- offline before its exclusive work has ended. The node-registry writes it, all others read it.
ALTER TABLE cluster ADD COLUMN offline_after_ms bigint NOT NULL DEFAULT 90000 CHECK (offline_after_ms > 0);

-- Of exclusive work: the value that its lease was made from. Its node is given so much, whatever the setting is by then.
ALTER TABLE attempts ADD COLUMN offline_after_ms bigint;

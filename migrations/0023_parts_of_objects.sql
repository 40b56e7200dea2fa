-- What an upload has in common with an older version is copied within the object store instead of sent again.

-- All parts but the last have at least so many bytes. Null: they are equal, as older versions have it.
ALTER TABLE artifact_uploads ADD COLUMN least_part bigint CHECK (least_part > 0);

-- Of which parts an object was put together, in their order: for each 8 bytes where it begins, 8 its size (both big-endian), 32 its SHA-256. Null: of
-- one, or it is of an older version. Checksums can't be compressed, and what is not is read quickly.
ALTER TABLE artifact_objects ADD COLUMN parts bytea;
ALTER TABLE artifact_objects ALTER COLUMN parts SET STORAGE EXTERNAL;

-- Artifacts: what is known about stored files and directories. Their bytes are in an object store, under keys that the platform chose.

-- What is stored. Two artifacts of one project share an object where both the checksum of the whole, which is their client's word, and the
-- digest of the parts, which the object store has verified one by one, are the same.
CREATE TABLE artifact_objects (
    id           uuid PRIMARY KEY,
    project_id   uuid NOT NULL REFERENCES projects,
    sha256       bytea NOT NULL CHECK (length(sha256) = 32),
    -- SHA-256 over the sizes and SHA-256s of the parts.
    parts_digest bytea NOT NULL CHECK (length(parts_digest) = 32),
    size         bigint NOT NULL CHECK (size >= 0),
    key          text NOT NULL CONSTRAINT artifact_objects_key_unique UNIQUE,
    created_at   timestamptz NOT NULL DEFAULT now(),
    -- Found to be other bytes, or gone: shared with nobody any more.
    corrupt_at   timestamptz
);
CREATE UNIQUE INDEX artifact_objects_content_unique ON artifact_objects (project_id, sha256, parts_digest) WHERE corrupt_at IS NULL;

CREATE TABLE artifacts (
    id               uuid PRIMARY KEY,
    project_id       uuid NOT NULL REFERENCES projects,
    name             text NOT NULL,
    -- Of this name in this project, in the order in which they became ready. Null while it is uploaded.
    version          integer CHECK (version > 0),
    kind             text NOT NULL,
    state            text NOT NULL,
    -- Declared, then true.
    size             bigint CHECK (size >= 0),
    sha256           bytea CHECK (length(sha256) = 32),
    -- No foreign key: it is remembered when the object is gone.
    object_id        uuid,
    media_type       text NOT NULL,
    file_name        text NOT NULL,
    labels           json NOT NULL,
    pinned           boolean NOT NULL,
    attempt_id       uuid,
    fence            bigint,
    created_by       uuid NOT NULL,
    -- Of whoever made it, as it was then.
    created_by_name  text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    ready_at         timestamptz,
    -- Since when nobody can name it.
    expired_at       timestamptz,
    -- Its bytes are on the list of what is deleted.
    is_dropped       boolean NOT NULL DEFAULT false,
    -- While it lives: the same request again is the same upload.
    idempotency_key  text,
    request_hash     bytea,
    CONSTRAINT artifacts_version_unique UNIQUE (project_id, name, version),
    CONSTRAINT artifacts_ready_is_whole CHECK (
        state NOT IN ('ready', 'corrupt')
        OR num_nulls(version, size, sha256, object_id, ready_at) = 0)
);
CREATE UNIQUE INDEX artifacts_idempotency_unique ON artifacts (project_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX artifacts_by_age ON artifacts (project_id, id);
CREATE INDEX artifacts_by_name ON artifacts (project_id, name, id);
-- What a name without a version means, however many newer ones were removed.
CREATE INDEX artifacts_newest ON artifacts (project_id, name, version) WHERE state = 'ready';
CREATE INDEX artifacts_by_content ON artifacts (project_id, sha256, id) WHERE state = 'ready';
CREATE INDEX artifacts_to_drop ON artifacts (expired_at) WHERE state = 'expired' AND NOT is_dropped;
CREATE INDEX artifacts_of_object ON artifacts (object_id) WHERE object_id IS NOT NULL;

-- The newest version of each name, so that no two get the same one, and none is used twice.
CREATE TABLE artifact_names (
    project_id  uuid NOT NULL REFERENCES projects,
    name        text NOT NULL,
    newest      integer NOT NULL CHECK (newest > 0),
    PRIMARY KEY (project_id, name)
);

-- Where the parts of an artifact go while it is uploaded.
CREATE TABLE artifact_uploads (
    artifact_id  uuid PRIMARY KEY REFERENCES artifacts,
    key          text NOT NULL,
    -- The object store's name of the multipart upload. Null: none was begun; the only part is put as it is.
    upload_id    text,
    part_size    bigint NOT NULL CHECK (part_size > 0),
    -- The number of the one part that is smaller, once it was announced: none comes after it.
    last_part    integer,
    -- The highest number for which an address was handed out.
    newest_part  integer NOT NULL DEFAULT 0,
    -- Bytes of which the object store has said that it has them.
    stored_bytes bigint NOT NULL DEFAULT 0,
    touched_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX artifact_uploads_idle ON artifact_uploads (touched_at);
CREATE UNIQUE INDEX artifact_uploads_key_unique ON artifact_uploads (key);
CREATE INDEX artifact_uploads_begun ON artifact_uploads (upload_id) WHERE upload_id IS NOT NULL;

-- Every part for which an address was handed out. Size and checksum never change: an older address must not be able to bring other bytes.
CREATE TABLE artifact_parts (
    artifact_id  uuid NOT NULL REFERENCES artifact_uploads,
    number       integer NOT NULL CHECK (number > 0),
    size         bigint NOT NULL CHECK (size >= 0),
    sha256       bytea NOT NULL CHECK (length(sha256) = 32),
    -- As the object store said it. Null: not known to be stored.
    etag         text,
    PRIMARY KEY (artifact_id, number)
);

-- What is to be deleted from the object store.
CREATE TABLE artifact_garbage (
    key         text PRIMARY KEY,
    upload_id   text,
    -- The object whose bytes these are, or the artifact whose upload it was. Null: of neither, as the second copy of the same content.
    owner       uuid,
    -- Deleted when this has passed: addresses that were handed out before still work for a while.
    due_at      timestamptz NOT NULL
);
CREATE INDEX artifact_garbage_due ON artifact_garbage (due_at);
CREATE INDEX artifact_garbage_owner ON artifact_garbage (owner) WHERE owner IS NOT NULL;

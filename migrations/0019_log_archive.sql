-- Logs leave for the object store: what is there is known here by a row for each piece of an attempt's log, and one for each pack of pieces.

CREATE TABLE log_packs (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key         text NOT NULL CONSTRAINT log_packs_key_unique UNIQUE,
    -- As it is stored.
    size        bigint NOT NULL CHECK (size > 0),
    sha256      bytea NOT NULL CHECK (length(sha256) = 32),
    -- Bytes of logs that were put into it.
    log_bytes   bigint NOT NULL CHECK (log_bytes >= 0),
    -- Of those that were put into it, so many are still somebody's. Counted, so that the rows need no second index.
    pieces      integer NOT NULL CHECK (pieces >= 0),
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX log_packs_empty ON log_packs (id) WHERE pieces = 0;

-- Of an attempt the first pieces are here and all that follows is in log_chunks; log_heads tells of both together. By the million, so narrow.
CREATE TABLE log_archive (
    attempt_id    uuid NOT NULL,
    first_ordinal bigint NOT NULL,
    next_ordinal  bigint NOT NULL CHECK (next_ordinal > first_ordinal),
    -- Where each stream of the attempt stands behind this piece. Null: nothing of it has come yet.
    stdout_end    bigint,
    stderr_end    bigint,
    build_end     bigint,
    system_end    bigint,
    -- The frame in the pack: its place, its length there, and its size when it is unpacked.
    pack_id       integer NOT NULL,
    frame_at      integer NOT NULL CHECK (frame_at >= 0),
    frame_length  integer NOT NULL CHECK (frame_length > 0),
    frame_size    integer NOT NULL CHECK (frame_size > 0),
    -- Where the piece begins in the unpacked frame.
    piece_at      integer NOT NULL CHECK (piece_at >= 0),
    -- Streams that the piece has something of: bit 0 is stdout.
    streams       smallint NOT NULL CHECK (streams BETWEEN 1 AND 15),
    PRIMARY KEY (attempt_id, next_ordinal)
);

-- Who packs at present, so that two do not pack the same. What they do is right without it, too.
CREATE TABLE log_mover (
    singleton   boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    holder      uuid NOT NULL DEFAULT gen_random_uuid(),
    until       timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO log_mover DEFAULT VALUES;

-- What was moved makes room for what comes: soon, and where the bytes are too.
ALTER TABLE log_chunks SET (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_cost_delay = 0);

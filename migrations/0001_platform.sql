-- The whole state of the platform. Wide and cold stands apart from narrow and hot: what a user asked for is written once in
-- `tasks`, what scheduling changes is the narrow row in `task_state`, whose indexes name no column that changes with the state.

CREATE TABLE cluster (
    singleton   boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id          uuid NOT NULL DEFAULT gen_random_uuid(),
    -- Raised by a restore from a backup, so that no fence is ever used twice.
    epoch       integer NOT NULL DEFAULT 1 CHECK (epoch BETWEEN 1 AND 2097151),
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO cluster DEFAULT VALUES;

-- Who may decide placements and offline sweeps: renewed every second, taken over after 4 s with epoch + 1.
CREATE TABLE leader (
    role        text PRIMARY KEY,
    holder      uuid NOT NULL,
    epoch       bigint NOT NULL,
    renewed_at  timestamptz NOT NULL
);

CREATE TABLE projects (
    id          uuid PRIMARY KEY,
    slug        text NOT NULL CONSTRAINT projects_slug_unique UNIQUE,
    created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO projects (id, slug) VALUES ('00000000-0000-0000-0000-000000000001', 'default');

-- Access -------------------------------------------------------------------------------------------------------------

CREATE TABLE api_keys (
    id          uuid PRIMARY KEY,
    project_id  uuid NOT NULL REFERENCES projects,
    created_by  uuid NOT NULL,
    name        text NOT NULL,
    role        text NOT NULL CHECK (role IN ('admin', 'member', 'viewer')),
    secret_hash bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    revoked_at  timestamptz
);

-- Keys that sign short-lived tokens, shared by every api-gateway. The newest that is not retired signs; all listed verify.
CREATE TABLE jwt_keys (
    kid         text PRIMARY KEY,
    secret      bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    retired_at  timestamptz
);

CREATE TABLE audit (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    project_id  uuid,
    actor_kind  text NOT NULL,
    actor_id    uuid NOT NULL,
    actor_name  text NOT NULL,
    address     text NOT NULL,
    request_id  text NOT NULL,
    action      text NOT NULL,
    subject     text NOT NULL,
    detail      jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_subject ON audit (subject, id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$;
CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Nodes --------------------------------------------------------------------------------------------------------------

CREATE TABLE nodes (
    id             uuid PRIMARY KEY,
    project_id     uuid NOT NULL REFERENCES projects,
    name           text NOT NULL,
    admission      text NOT NULL DEFAULT 'open' CHECK (admission IN ('open', 'cordoned', 'draining', 'drained', 'revoked')),
    admission_note text NOT NULL DEFAULT '',
    facts          jsonb NOT NULL DEFAULT '{}',
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX nodes_name_unique ON nodes (name) WHERE admission <> 'revoked';

CREATE TABLE node_tokens (
    id          uuid PRIMARY KEY,
    project_id  uuid NOT NULL REFERENCES projects,
    created_by  uuid NOT NULL,
    node_id     uuid NOT NULL REFERENCES nodes,
    secret_hash bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz
);
CREATE INDEX node_tokens_node ON node_tokens (node_id);

-- Narrow and hot: a heartbeat writes this row only, and no index names a column that it changes.
CREATE TABLE node_live (
    node_id         uuid PRIMARY KEY REFERENCES nodes,
    -- The installation that uses the node's token.
    instance        uuid,
    session_epoch   bigint NOT NULL DEFAULT 0,
    connected       boolean NOT NULL DEFAULT false,
    connected_since timestamptz,
    beat_at         timestamptz,
    offline_since   timestamptz,
    metrics         jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);

-- Tasks --------------------------------------------------------------------------------------------------------------

-- What placement looks at. Tasks with equal needs form one class of the queue.
CREATE TABLE requirement_classes (
    id          bigint PRIMARY KEY,
    needs       jsonb NOT NULL
);

CREATE TABLE tasks (
    id          uuid PRIMARY KEY,
    project_id  uuid NOT NULL REFERENCES projects,
    created_by  uuid NOT NULL,
    name        text NOT NULL,
    spec        jsonb NOT NULL,
    metadata    jsonb NOT NULL,
    -- Keys of the environment and the repositories, as nodes report what is warm.
    warm_keys   text[] NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    -- Reserved: gangs and children.
    group_id    uuid,
    parent_id   uuid
);
-- People name a task by the end of its id.
CREATE INDEX tasks_id_ending ON tasks (reverse(id::text) text_pattern_ops);
CREATE INDEX tasks_metadata ON tasks USING gin (metadata jsonb_path_ops);
CREATE INDEX tasks_name ON tasks (name text_pattern_ops, id);

CREATE TABLE task_state (
    task_id          uuid PRIMARY KEY REFERENCES tasks,
    project_id       uuid NOT NULL,
    class            bigint NOT NULL REFERENCES requirement_classes,
    priority         integer NOT NULL,
    queued_at        timestamptz NOT NULL,
    queue_expires_at timestamptz,
    queued           boolean NOT NULL,
    state            text NOT NULL,
    live_attempt_id  uuid,
    fence            bigint NOT NULL,
    attempts         integer NOT NULL,
    user_failures    integer NOT NULL,
    infra_failures   integer NOT NULL,
    node_losses      integer NOT NULL,
    cancel_requested boolean NOT NULL,
    not_before       timestamptz,
    avoid_node       uuid,
    failure          text,
    exit_code        integer,
    message          text NOT NULL,
    ended_at         timestamptz,
    CONSTRAINT task_state_is_known CHECK (state IN ('pending', 'assigned', 'preparing', 'running', 'finishing', 'succeeded', 'failed', 'cancelled')),
    CONSTRAINT task_holds_or_waits_or_ended CHECK ((ended_at IS NOT NULL) = (live_attempt_id IS NULL AND NOT queued))
) WITH (fillfactor = 70);
CREATE INDEX task_state_queue ON task_state (class, priority DESC, queued_at, task_id) WHERE queued;
CREATE INDEX task_state_queue_expiry ON task_state (queue_expires_at) WHERE queued AND queue_expires_at IS NOT NULL;
CREATE INDEX task_state_live ON task_state (task_id) WHERE ended_at IS NULL;
CREATE INDEX task_state_project ON task_state (project_id, task_id);

CREATE TABLE attempts (
    id           uuid PRIMARY KEY,
    task_id      uuid NOT NULL REFERENCES tasks,
    number       integer NOT NULL,
    node_id      uuid NOT NULL REFERENCES nodes,
    fence        bigint NOT NULL,
    state        text NOT NULL,
    reservation  jsonb NOT NULL,
    -- The node has not yet said that the resources are free.
    reserved     boolean NOT NULL,
    placed_at    timestamptz NOT NULL,
    accepted_at  timestamptz,
    preparing_at timestamptz,
    started_at   timestamptz,
    exited_at    timestamptz,
    ended_at     timestamptz,
    exit         jsonb,
    ending       jsonb,
    provenance   jsonb,
    CONSTRAINT attempt_state_is_known CHECK (state IN ('assigned', 'preparing', 'running', 'finishing', 'succeeded', 'failed', 'cancelled', 'lost')),
    CONSTRAINT attempts_number_unique UNIQUE (task_id, number)
) WITH (fillfactor = 70);
CREATE INDEX attempts_holding ON attempts (node_id) WHERE reserved;
-- A second wall behind `task_state.live_attempt_id`: two live attempts of one task can't be written.
CREATE UNIQUE INDEX attempts_one_live ON attempts (task_id) WHERE ended_at IS NULL;

-- One row per task per statement, with all transitions of that statement.
CREATE TABLE task_events (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id     uuid NOT NULL,
    project_id  uuid NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    state       text NOT NULL,
    events      jsonb NOT NULL
);
CREATE INDEX task_events_task ON task_events (task_id, id);

-- Reports that no longer counted, kept as evidence.
CREATE TABLE rejected_reports (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    attempt_id  uuid NOT NULL,
    node_id     uuid NOT NULL,
    fence       bigint NOT NULL,
    verdict     text NOT NULL,
    report      jsonb NOT NULL
);
CREATE INDEX rejected_reports_attempt ON rejected_reports (attempt_id);

CREATE TABLE idempotency_keys (
    project_id   uuid NOT NULL REFERENCES projects,
    key          text NOT NULL,
    created_by   uuid NOT NULL,
    request_hash bytea NOT NULL,
    task_id      uuid NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- Logs ---------------------------------------------------------------------------------------------------------------

-- Where each stream of an attempt stands. Bytes before these offsets are stored.
CREATE TABLE log_heads (
    attempt_id   uuid PRIMARY KEY REFERENCES attempts,
    next_offsets bigint[] NOT NULL DEFAULT '{0,0,0,0}',
    next_ordinal bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE log_chunks (
    attempt_id  uuid NOT NULL,
    ordinal     bigint NOT NULL,
    stream      smallint NOT NULL,
    start       bigint NOT NULL,
    -- So many bytes are missing here for good; then `data` is empty.
    gap         bigint,
    data        bytea NOT NULL,
    PRIMARY KEY (attempt_id, ordinal)
);
ALTER TABLE log_chunks ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX log_chunks_bytes ON log_chunks (attempt_id, stream, start);

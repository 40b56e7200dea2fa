-- Whether the platform itself is there: without it, nodes are silent for want of a listener. Every api-gateway renews this row.
CREATE TABLE platform_presence (
    singleton   boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- Begins anew when nobody renewed the row for 10 s.
    since       timestamptz NOT NULL,
    renewed_at  timestamptz NOT NULL
) WITH (fillfactor = 50);

-- What the sweep of silent nodes has told and done. Its leader writes it.
CREATE TABLE sweep (
    singleton    boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- Many nodes fell silent at once: nothing is called offline before `alarm_until`.
    alarm_silent integer,
    alarm_of     integer,
    alarm_until  timestamptz,
    -- The last step of the database's clock that was added to the deadlines, and by how much: so that it is added once.
    step_since   timestamptz,
    step_ms      bigint NOT NULL DEFAULT 0
);
INSERT INTO sweep DEFAULT VALUES;

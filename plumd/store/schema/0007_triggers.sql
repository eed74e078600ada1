-- Who is started by what; triggers and the events that they took; webhooks and their deliveries.

ALTER TABLE schedules ADD COLUMN target TEXT NOT NULL DEFAULT '';   -- the workflow or definition
UPDATE schedules SET target = coalesce(
    nullif(CAST(body AS TEXT) ->> 'workflowId', ''), CAST(body AS TEXT) ->> 'defId', '')
WHERE json_valid(CAST(body AS TEXT));
CREATE INDEX schedules_by_target ON schedules (target) WHERE target <> '';

CREATE TABLE triggers (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    version    INTEGER NOT NULL CHECK (version > 0),
    kind       TEXT    NOT NULL,
    body       BLOB    NOT NULL,                    -- JSON of TriggerBody
    target     TEXT    NOT NULL,                    -- the workflow or definition
    watched    TEXT    NOT NULL,                    -- the workflow that it follows, '' = none
    key        TEXT    NOT NULL,                    -- a webhook's place, '' = it is none
    secret     TEXT    NOT NULL,                    -- a webhook's
    since_seq  INTEGER NOT NULL,                    -- events from here on are its own
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX triggers_by_key ON triggers (key) WHERE key <> '';
CREATE INDEX triggers_by_target ON triggers (target);
CREATE INDEX triggers_by_watched ON triggers (watched) WHERE watched <> '';

CREATE TABLE trigger_events (                       -- at most one row, and one start, an event
    trigger_id INTEGER NOT NULL,
    event_id   TEXT    NOT NULL,
    number     INTEGER NOT NULL,                    -- its place in the history; ids are times
    state      INTEGER NOT NULL CHECK (state BETWEEN 0 AND 2),      -- see EventState
    depth      INTEGER NOT NULL,                    -- how many triggers stand behind it
    run_id     INTEGER NOT NULL,                    -- 0 = none
    task_id    INTEGER NOT NULL,                    -- 0 = none
    at_ms      INTEGER NOT NULL,
    reason     TEXT    NOT NULL,
    detail     TEXT    NOT NULL,
    PRIMARY KEY (trigger_id, event_id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX trigger_events_by_number ON trigger_events (trigger_id, number);
CREATE INDEX trigger_events_by_run ON trigger_events (run_id) WHERE run_id > 0;
CREATE INDEX trigger_events_by_task ON trigger_events (task_id) WHERE task_id > 0;
CREATE INDEX trigger_events_by_age ON trigger_events (at_ms);

CREATE TABLE followers (                            -- rooms that read the event log to its end
    name TEXT    PRIMARY KEY,
    seq  INTEGER NOT NULL                           -- the next event that it looks at
) STRICT, WITHOUT ROWID;

CREATE TABLE webhooks (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    version    INTEGER NOT NULL CHECK (version > 0),
    body       BLOB    NOT NULL,                    -- JSON of WebhookBody
    secret     TEXT    NOT NULL,
    since_seq  INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE deliveries (
    webhook_id INTEGER NOT NULL,
    seq        INTEGER NOT NULL,                    -- the event's number
    state      INTEGER NOT NULL CHECK (state BETWEEN 0 AND 2),      -- see DeliveryState
    attempts   INTEGER NOT NULL,
    due_ms     INTEGER NOT NULL,                    -- of the next attempt
    status     INTEGER NOT NULL,                    -- of the last answer, 0 = there was none
    detail     TEXT    NOT NULL,
    created_ms INTEGER NOT NULL,
    ended_ms   INTEGER NOT NULL,
    topic      TEXT    NOT NULL,
    body       BLOB    NOT NULL,
    PRIMARY KEY (webhook_id, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (webhook_id, due_ms) WHERE state = 0;
CREATE INDEX deliveries_by_age ON deliveries (created_ms);

-- The key-value store, and devices with their states.

CREATE TABLE kv (
    id         INTEGER PRIMARY KEY,
    namespace  TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    version    INTEGER NOT NULL CHECK (version > 0),
    type       INTEGER NOT NULL CHECK (type BETWEEN 0 AND 4),
    updated_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL CHECK (expires_ms >= 0),       -- 0 = never
    value      TEXT    NOT NULL                     -- last, so that all else is read without it
) STRICT;
CREATE UNIQUE INDEX kv_by_key ON kv (namespace, key);
CREATE INDEX kv_by_expiry ON kv (expires_ms) WHERE expires_ms > 0;

CREATE TABLE kv_gone (                              -- what a deleted key was last, so that versions grow
    namespace TEXT    NOT NULL,
    key       TEXT    NOT NULL,
    version   INTEGER NOT NULL CHECK (version > 0),
    gone_ms   INTEGER NOT NULL,
    PRIMARY KEY (namespace, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX kv_gone_by_age ON kv_gone (gone_ms);

CREATE TABLE kv_floors (                            -- above this begin the keys that nothing is known of
    namespace TEXT    PRIMARY KEY,
    version   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
    number        INTEGER PRIMARY KEY AUTOINCREMENT,    -- never given out again
    id            TEXT    NOT NULL UNIQUE,
    node_id       TEXT    NOT NULL,
    type          TEXT    NOT NULL,
    url           TEXT    NOT NULL,
    polls         INTEGER NOT NULL CHECK (polls BETWEEN 0 AND 1),
    beat_ms       INTEGER NOT NULL CHECK (beat_ms > 0),
    state_desc    TEXT    NOT NULL,                 -- JSON array
    op_desc       TEXT    NOT NULL,                 -- JSON array
    registered_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE device_states (                        -- the newest of each name
    device INTEGER NOT NULL,
    name   TEXT    NOT NULL,
    value  TEXT    NOT NULL,
    at_ms  INTEGER NOT NULL,
    PRIMARY KEY (device, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE device_history (                       -- one row a report
    device      INTEGER NOT NULL,
    seq         INTEGER NOT NULL,                   -- counts a device's reports, so old ones are found
    at_ms       INTEGER NOT NULL,                   -- as the device says
    received_ms INTEGER NOT NULL,
    states      TEXT    NOT NULL,                   -- JSON object of texts
    PRIMARY KEY (device, seq)
) STRICT, WITHOUT ROWID;

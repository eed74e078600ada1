-- Concurrency keys of tasks that have one, and named limits.

CREATE TABLE task_keys (
    id              INTEGER PRIMARY KEY,
    concurrency_key TEXT    NOT NULL,
    own_limit       INTEGER NOT NULL CHECK (own_limit >= 0),        -- 0 = it names none
    on_conflict     INTEGER NOT NULL CHECK (on_conflict BETWEEN 0 AND 2)
) STRICT;

CREATE TABLE limits (
    key         TEXT    PRIMARY KEY,
    version     INTEGER NOT NULL CHECK (version > 0),
    concurrency INTEGER NOT NULL CHECK (concurrency >= 0),          -- 0 = any number
    rate_count  INTEGER NOT NULL CHECK (rate_count >= 0),           -- 0 = no rate
    rate_per_ms INTEGER NOT NULL CHECK (rate_per_ms >= 0),
    updated_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

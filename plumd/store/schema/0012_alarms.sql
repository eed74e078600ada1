-- Alarms on states of devices, and what is kept of states whose reports are forgotten.

CREATE TABLE alarm_rules (
    id   INTEGER PRIMARY KEY,
    body TEXT    NOT NULL                           -- JSON object
) STRICT;

CREATE TABLE alarms (                               -- one row each time that a rule was broken
    id         INTEGER PRIMARY KEY,
    rule       INTEGER NOT NULL,
    name       TEXT    NOT NULL,                    -- the rule's, for it may be deleted
    severity   TEXT    NOT NULL,
    device     TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    value      TEXT    NOT NULL,                    -- at its raising
    raised_ms  INTEGER NOT NULL,
    cleared_ms INTEGER NOT NULL,                    -- 0 = it is active
    last       TEXT    NOT NULL,                    -- the value that cleared it
    acked_ms   INTEGER NOT NULL,                    -- 0 = nobody said that he knows of it
    acked_by   TEXT    NOT NULL,
    note       TEXT    NOT NULL
) STRICT;
CREATE INDEX alarms_active ON alarms (id) WHERE cleared_ms = 0;
CREATE INDEX alarms_by_device ON alarms (device, id);

CREATE TABLE device_buckets (                       -- of numbers alone
    device INTEGER NOT NULL,
    name   TEXT    NOT NULL,
    width  INTEGER NOT NULL CHECK (width IN (60, 3600)),    -- seconds
    at_ms  INTEGER NOT NULL,                        -- its beginning
    count  INTEGER NOT NULL CHECK (count > 0),
    low    REAL    NOT NULL,
    high   REAL    NOT NULL,
    total  REAL    NOT NULL,
    last   REAL    NOT NULL,
    PRIMARY KEY (device, name, width, at_ms)
) STRICT, WITHOUT ROWID;

CREATE TABLE device_retention (                     -- where somebody said it; days, 0 = none
    device       INTEGER NOT NULL,
    name         TEXT    NOT NULL,
    minutes_days REAL    NOT NULL,
    hours_days   REAL    NOT NULL,
    PRIMARY KEY (device, name)
) STRICT, WITHOUT ROWID;

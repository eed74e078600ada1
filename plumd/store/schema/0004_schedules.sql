-- Schedules, what became of their slots, and calendars of days on which nothing is started.

CREATE TABLE schedules (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    version    INTEGER NOT NULL CHECK (version > 0),
    body       BLOB    NOT NULL,                    -- JSON of ScheduleBody
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE schedule_plans (                       -- the moving half, written at each fire
    id      INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,                       -- of the body that it was made by
    paced   INTEGER NOT NULL CHECK (paced BETWEEN 0 AND 1),
    done_ms INTEGER NOT NULL,                       -- the latest slot that was dealt with, 0 = none
    next_ms INTEGER NOT NULL,                       -- the next slot, 0 = none
    due_ms  INTEGER NOT NULL,                       -- when that is to be started: it and its jitter
    zones   TEXT    NOT NULL                        -- the version of the zones it was found with
) STRICT;

CREATE TABLE schedule_calendars (
    calendar    TEXT    NOT NULL,
    schedule_id INTEGER NOT NULL,
    PRIMARY KEY (calendar, schedule_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX schedule_calendars_by_schedule ON schedule_calendars (schedule_id);

CREATE TABLE fires (                                -- at most one row, and one run, a slot
    schedule_id INTEGER NOT NULL,
    slot_ms     INTEGER NOT NULL,
    kind        INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 2),      -- planned, manual, backfill
    state       INTEGER NOT NULL CHECK (state BETWEEN 0 AND 4),     -- see FireState
    alone       INTEGER NOT NULL CHECK (alone BETWEEN 0 AND 1),     -- queued until nothing runs
    live        INTEGER NOT NULL CHECK (live BETWEEN 0 AND 1),      -- what it started goes on
    count       INTEGER NOT NULL,                   -- of slots that this row stands for, if missed
    late_ms     INTEGER NOT NULL,
    at_ms       INTEGER NOT NULL,                   -- when it was decided
    run_id      INTEGER NOT NULL,                   -- 0 = none
    task_id     INTEGER NOT NULL,                   -- 0 = none
    reason      TEXT    NOT NULL,
    detail      TEXT    NOT NULL,
    PRIMARY KEY (schedule_id, slot_ms)
) STRICT, WITHOUT ROWID;
CREATE INDEX fires_queued ON fires (schedule_id, slot_ms) WHERE state = 0;
CREATE INDEX fires_live ON fires (schedule_id, slot_ms) WHERE live = 1;
CREATE INDEX fires_by_age ON fires (at_ms);

CREATE TABLE calendars (
    name       TEXT    PRIMARY KEY,
    version    INTEGER NOT NULL CHECK (version > 0),
    body       BLOB    NOT NULL,                    -- JSON of CalendarBody
    updated_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

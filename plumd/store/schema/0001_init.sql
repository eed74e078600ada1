-- Keys are time-ordered 64-bit integers: rows are appended, and text order is time order.
-- Hot rows are narrow; what is written once (payloads, results, past attempts) lives beside them.

CREATE TABLE tasks (
    id               INTEGER PRIMARY KEY,
    name             TEXT    NOT NULL,
    kind             INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 2),
    target_kind      TEXT    NOT NULL,
    target_ref       TEXT    NOT NULL,
    def_id           INTEGER NOT NULL,              -- 0 = made without a definition
    def_version      INTEGER NOT NULL,
    priority         INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9),
    timeout_ms       INTEGER NOT NULL,              -- of an attempt, 0 = none
    queue_timeout_ms INTEGER NOT NULL,
    max_retries      INTEGER NOT NULL,
    on_lost          INTEGER NOT NULL CHECK (on_lost BETWEEN 0 AND 1),
    run_id           INTEGER NOT NULL,              -- 0 = not of a workflow run
    step             INTEGER NOT NULL,              -- its place in the run, -1 = none
    origin_id        INTEGER NOT NULL,              -- the task that this one reruns, 0 = none
    scheduled_ms     INTEGER NOT NULL,
    has_input        INTEGER NOT NULL,              -- a row in task_inputs
    created_ms       INTEGER NOT NULL,
    -- the moving half, written at each transition
    state            INTEGER NOT NULL CHECK (state BETWEEN 0 AND 7),
    attempt          INTEGER NOT NULL,
    failures         INTEGER NOT NULL,
    lost             INTEGER NOT NULL,
    worker_id        TEXT,                          -- of the current or last attempt
    due_ms           INTEGER NOT NULL,
    started_ms       INTEGER NOT NULL,
    finished_ms      INTEGER NOT NULL,
    cancel_ms        INTEGER NOT NULL
) STRICT;
CREATE INDEX tasks_by_state ON tasks (state);
CREATE INDEX tasks_by_name ON tasks (name);
CREATE INDEX tasks_by_def ON tasks (def_id) WHERE def_id > 0;
CREATE INDEX tasks_by_run ON tasks (run_id) WHERE run_id > 0;

CREATE TABLE task_inputs (
    id      INTEGER PRIMARY KEY,
    payload BLOB,                                   -- JSON, NULL = none or in a blob
    blob    TEXT,                                   -- sha256 of the file that holds the payload
    labels  TEXT                                    -- JSON object
) STRICT;
CREATE INDEX task_inputs_by_blob ON task_inputs (blob) WHERE blob IS NOT NULL;

CREATE TABLE task_labels (
    key     TEXT    NOT NULL,
    value   TEXT    NOT NULL,
    task_id INTEGER NOT NULL,
    PRIMARY KEY (key, value, task_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX task_labels_by_task ON task_labels (task_id);

CREATE TABLE task_results (
    id     INTEGER PRIMARY KEY,
    result BLOB,
    blob   TEXT,
    error  TEXT                                     -- JSON of TaskError
) STRICT;
CREATE INDEX task_results_by_blob ON task_results (blob) WHERE blob IS NOT NULL;

CREATE TABLE attempts (                             -- past ones; the last one is in tasks
    task_id     INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    ending      INTEGER NOT NULL CHECK (ending BETWEEN 0 AND 4),
    worker_id   TEXT    NOT NULL,
    node_id     TEXT    NOT NULL,
    started_ms  INTEGER NOT NULL,
    finished_ms INTEGER NOT NULL,
    error       TEXT,
    PRIMARY KEY (task_id, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE task_defs (
    id          INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,
    version     INTEGER NOT NULL,
    created_ms  INTEGER NOT NULL,
    updated_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE task_def_versions (
    def_id     INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    body       BLOB    NOT NULL,                    -- JSON of TaskDefBody
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (def_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE workflows (
    id          INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    created_ms  INTEGER NOT NULL,
    updated_ms  INTEGER NOT NULL,
    deleted_ms  INTEGER NOT NULL                    -- its runs are being removed in slices
) STRICT;
CREATE UNIQUE INDEX workflows_by_name ON workflows (name) WHERE deleted_ms = 0;

CREATE TABLE workflow_versions (
    workflow_id INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    body        BLOB    NOT NULL,                   -- JSON of WorkflowBody
    created_ms  INTEGER NOT NULL,
    PRIMARY KEY (workflow_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE workflow_runs (
    id          INTEGER PRIMARY KEY,
    workflow_id INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    pins        TEXT    NOT NULL,                   -- JSON: the version of each step's definition
    payload     BLOB,                               -- JSON, given at the run
    state       INTEGER NOT NULL CHECK (state BETWEEN 0 AND 7),
    created_ms  INTEGER NOT NULL,
    finished_ms INTEGER NOT NULL,
    cancel_ms   INTEGER NOT NULL,
    steps       BLOB                                -- JSON, written once at the end
) STRICT;
CREATE INDEX workflow_runs_by_workflow ON workflow_runs (workflow_id);
CREATE INDEX workflow_runs_by_state ON workflow_runs (state);

CREATE TABLE workers (
    id            TEXT    PRIMARY KEY,
    body          BLOB    NOT NULL,                 -- JSON of Join
    kind          INTEGER NOT NULL,
    registered_ms INTEGER NOT NULL,
    offline_ms    INTEGER NOT NULL                  -- 0 = believed to be there
) STRICT, WITHOUT ROWID;

CREATE TABLE endpoints (
    service_name TEXT    NOT NULL,
    instance_id  TEXT    NOT NULL,
    ip           TEXT    NOT NULL,
    port         INTEGER NOT NULL,
    protocol     TEXT    NOT NULL,
    node_id      TEXT    NOT NULL,
    version      TEXT    NOT NULL,
    labels       TEXT    NOT NULL,                  -- JSON object
    PRIMARY KEY (service_name, instance_id, ip, port, protocol)
) STRICT, WITHOUT ROWID;
CREATE INDEX endpoints_by_instance ON endpoints (instance_id);

CREATE TABLE events (                               -- one row a commit
    first_seq INTEGER PRIMARY KEY,
    count     INTEGER NOT NULL,
    at_ms     INTEGER NOT NULL,
    items     BLOB    NOT NULL                      -- msgpack, see events.py
) STRICT;

CREATE TABLE idempotency (
    key        TEXT    PRIMARY KEY,                 -- route and the caller's key
    digest     BLOB    NOT NULL,                    -- sha256 of the body
    status     INTEGER NOT NULL,
    answer     BLOB    NOT NULL,
    location   TEXT    NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency (created_ms);

CREATE TABLE quarantine (                           -- rows that could not be read at start
    id     INTEGER PRIMARY KEY,
    subject TEXT   NOT NULL,
    row_id TEXT    NOT NULL,
    reason TEXT    NOT NULL,
    at_ms  INTEGER NOT NULL
) STRICT;

-- Nodes, apps (uploaded artifacts), deployments with their versions, and instances.

CREATE TABLE nodes (
    id            TEXT    PRIMARY KEY,
    ip            TEXT    NOT NULL,
    labels        TEXT    NOT NULL,                 -- JSON object, as the agent says
    own_labels    TEXT    NOT NULL,                 -- JSON object, as an operator says; they win
    facts         TEXT    NOT NULL,                 -- JSON object, only what does not change by itself
    key_hash      BLOB,                             -- sha256 of the agent's secret, NULL = it has none
    agent_version TEXT    NOT NULL,
    boot_id       TEXT    NOT NULL,
    draining      INTEGER NOT NULL CHECK (draining BETWEEN 0 AND 1),
    instances_max INTEGER NOT NULL CHECK (instances_max >= 0),      -- 0 = any number
    lost_ms       INTEGER NOT NULL CHECK (lost_ms >= 0),            -- since when it is silent, 0 = it is not
    shaky_ms      INTEGER NOT NULL,                 -- when it was lost last, 0 = never
    created_ms    INTEGER NOT NULL,
    seen_ms       INTEGER NOT NULL                  -- its last beat when the row was written
) STRICT, WITHOUT ROWID;

CREATE TABLE apps (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL,
    version    TEXT    NOT NULL,
    file       TEXT    NOT NULL UNIQUE,             -- its name in the folder of artifacts
    sha256     TEXT    NOT NULL,
    size_bytes INTEGER NOT NULL,
    ports      TEXT    NOT NULL,                    -- JSON array of {service, protocol, port}
    created_ms INTEGER NOT NULL,
    UNIQUE (name, version)
) STRICT;
CREATE INDEX apps_by_name ON apps (name);

CREATE TABLE deployments (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL CHECK (version > 0),
    running    INTEGER NOT NULL CHECK (running BETWEEN 0 AND 1),
    next_token INTEGER NOT NULL CHECK (next_token > 0),
    rollout    TEXT,                                -- JSON object, NULL = there was none
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX deployments_by_name ON deployments (name);

CREATE TABLE deployment_versions (
    deployment_id INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    body          BLOB    NOT NULL,                 -- JSON
    note          TEXT    NOT NULL,                 -- why there is one
    created_ms    INTEGER NOT NULL,
    PRIMARY KEY (deployment_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE instances (                            -- one copy on one node; a moved one is another
    id            INTEGER PRIMARY KEY,
    deployment_id INTEGER NOT NULL,
    entry         TEXT    NOT NULL,
    pin           TEXT    NOT NULL,                 -- the node that its entry names, "" = any
    ordinal       INTEGER NOT NULL,
    generation    INTEGER NOT NULL,                 -- counts the copies of (entry, pin, ordinal)
    version       INTEGER NOT NULL,                 -- of the deployment, that says what it runs
    token         INTEGER NOT NULL,
    replaces      INTEGER NOT NULL,                 -- the copy that goes when this one is well, 0 = none
    node_id       TEXT    NOT NULL,                 -- "" = not placed yet
    retired       TEXT    NOT NULL,                 -- why it shall end for good, "" = it shall not
    stop_ms       INTEGER NOT NULL,                 -- a retired one is told to stop from then on
    held          INTEGER NOT NULL CHECK (held BETWEEN 0 AND 1),    -- somebody stopped this one alone
    phase         INTEGER NOT NULL CHECK (phase BETWEEN 0 AND 6),
    healthy_ms    INTEGER NOT NULL,                 -- since when it is healthy, 0 = it is not
    exit_code     INTEGER,
    signal        INTEGER,
    restarts      INTEGER NOT NULL,
    pid           INTEGER NOT NULL,
    message       TEXT    NOT NULL,
    started_ms    INTEGER NOT NULL,
    reported_ms   INTEGER NOT NULL,
    placed_ms     INTEGER NOT NULL,
    created_ms    INTEGER NOT NULL
) STRICT;
CREATE INDEX instances_by_deployment ON instances (deployment_id);
CREATE INDEX instances_by_node ON instances (node_id);

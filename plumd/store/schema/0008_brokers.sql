-- Message brokers, and the last message that came under each packet identifier.

CREATE TABLE brokers (
    name       TEXT    PRIMARY KEY,
    version    INTEGER NOT NULL CHECK (version > 0),
    body       BLOB    NOT NULL,                    -- JSON of BrokerBody
    password   TEXT    NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE broker_messages (                      -- at most 65,535 rows a broker
    broker   TEXT    NOT NULL,
    pid      INTEGER NOT NULL,
    digest   TEXT    NOT NULL,
    event_id TEXT    NOT NULL,
    PRIMARY KEY (broker, pid)
) STRICT, WITHOUT ROWID;

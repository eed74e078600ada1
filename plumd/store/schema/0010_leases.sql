-- Leases: locks of the key-value store, and devices that somebody has for himself.

CREATE TABLE leases (
    kind     TEXT    NOT NULL,                      -- lock, device
    scope    TEXT    NOT NULL,                      -- a lock's namespace
    name     TEXT    NOT NULL,
    token    INTEGER NOT NULL CHECK (token > 0),
    owner    TEXT    NOT NULL,
    ttl_ms   INTEGER NOT NULL CHECK (ttl_ms > 0),   -- until when it holds is memory's
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, scope, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE lease_tokens (                         -- one row: the last token that was given out
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    last INTEGER NOT NULL
) STRICT;
INSERT INTO lease_tokens (id, last) VALUES (1, 0);

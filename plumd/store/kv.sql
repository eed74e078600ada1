-- name: get
SELECT namespace, key, value, type, version, updated_ms, expires_ms FROM kv
WHERE namespace = ? AND key = ?;

-- The version that a key has or had, in three places; expired or not.
-- name: version
SELECT version FROM kv WHERE namespace = ? AND key = ?;

-- name: gone_version
SELECT version FROM kv_gone WHERE namespace = ? AND key = ?;

-- name: floor
SELECT version FROM kv_floors WHERE namespace = ?;

-- name: upsert
INSERT INTO kv (namespace, key, value, type, version, updated_ms, expires_ms)
VALUES (?,?,?,?,?,?,?)
ON CONFLICT (namespace, key) DO UPDATE SET value = excluded.value, type = excluded.type,
    version = excluded.version, updated_ms = excluded.updated_ms, expires_ms = excluded.expires_ms;

-- name: delete
DELETE FROM kv WHERE namespace = ? AND key = ?;

-- name: bury
INSERT INTO kv_gone (namespace, key, version, gone_ms) VALUES (?,?,?,?);

-- name: unbury
DELETE FROM kv_gone WHERE namespace = ? AND key = ?;

-- Keys from one on and below another; the bounds make it one walk of the index.
-- name: page
SELECT namespace, key, value, type, version, updated_ms, expires_ms FROM kv
WHERE namespace = ? AND key >= ? AND key < ? AND (expires_ms = 0 OR expires_ms > ?)
ORDER BY key LIMIT ?;

-- name: some
SELECT key, version FROM kv WHERE namespace = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?;

-- name: keys
SELECT key FROM kv
WHERE namespace = ? AND key >= ? AND key < ? AND (expires_ms = 0 OR expires_ms > ?) ORDER BY key;

-- From each namespace to the next by the index: there are few, with many keys.
-- name: namespaces
WITH RECURSIVE names (name) AS (
    SELECT (SELECT min(namespace) FROM kv)
    UNION ALL
    SELECT (SELECT min(namespace) FROM kv WHERE namespace > name) FROM names
    WHERE name IS NOT NULL)
SELECT name FROM names WHERE name IS NOT NULL AND EXISTS (
    SELECT 1 FROM kv WHERE namespace = name AND (expires_ms = 0 OR expires_ms > ?));

-- name: next_expiry
SELECT min(expires_ms) FROM kv WHERE expires_ms > 0;

-- name: expired
SELECT namespace, key, version FROM kv WHERE expires_ms > 0 AND expires_ms <= ?
ORDER BY expires_ms LIMIT ?;

-- name: old_gone
SELECT namespace, key, version FROM kv_gone WHERE gone_ms < ? ORDER BY gone_ms LIMIT ?;

-- name: gone_count
SELECT count(*) FROM kv_gone;

-- name: raise_floor
INSERT INTO kv_floors (namespace, version) VALUES (?,?)
ON CONFLICT (namespace) DO UPDATE SET version = max(version, excluded.version);

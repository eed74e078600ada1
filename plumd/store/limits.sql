-- name: put
INSERT OR REPLACE INTO limits (key, version, concurrency, rate_count, rate_per_ms, updated_ms)
VALUES (?,?,?,?,?,?);

-- name: get
SELECT key, version, concurrency, rate_count, rate_per_ms, updated_ms FROM limits WHERE key = ?;

-- name: page
SELECT key, version, concurrency, rate_count, rate_per_ms, updated_ms FROM limits WHERE key > ?
ORDER BY key LIMIT ?;

-- name: delete
DELETE FROM limits WHERE key = ?;

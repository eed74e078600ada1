-- name: get
SELECT digest, status, answer, location FROM idempotency WHERE key = ?;

-- name: insert
INSERT INTO idempotency (key, digest, status, answer, location, created_ms) VALUES (?,?,?,?,?,?);

-- name: prune
DELETE FROM idempotency WHERE key IN
    (SELECT key FROM idempotency WHERE created_ms < ? ORDER BY created_ms LIMIT ?);

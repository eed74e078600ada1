-- name: upsert
INSERT INTO workers (id, body, kind, registered_ms, offline_ms) VALUES (?,?,?,?,0)
ON CONFLICT (id) DO UPDATE SET body = excluded.body, kind = excluded.kind,
    registered_ms = excluded.registered_ms, offline_ms = 0;

-- name: drain
UPDATE workers SET drained = ? WHERE id = ?;

-- name: drained
SELECT id FROM workers WHERE drained;

-- name: offline
UPDATE workers SET offline_ms = ? WHERE id = ?;

-- name: delete
DELETE FROM workers WHERE id = ?;

-- name: all
SELECT id, body, registered_ms, offline_ms FROM workers ORDER BY id;

-- name: get
SELECT id, body, registered_ms, offline_ms FROM workers WHERE id = ?;

-- name: prune
DELETE FROM workers WHERE offline_ms > 0 AND offline_ms < ?;

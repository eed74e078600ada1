-- name: get
SELECT scope, name, token, owner, ttl_ms, since_ms FROM leases
WHERE kind = ? AND scope = ? AND name = ?;

-- name: all
SELECT kind, scope, name, token, owner, ttl_ms, since_ms FROM leases;

-- name: count
SELECT count(*) FROM leases;

-- name: put
INSERT INTO leases (kind, scope, name, token, owner, ttl_ms, since_ms) VALUES (?,?,?,?,?,?,?)
ON CONFLICT (kind, scope, name) DO UPDATE SET token = excluded.token, owner = excluded.owner,
    ttl_ms = excluded.ttl_ms, since_ms = excluded.since_ms;

-- name: set_ttl
UPDATE leases SET ttl_ms = ? WHERE kind = ? AND scope = ? AND name = ?;

-- name: delete
DELETE FROM leases WHERE kind = ? AND scope = ? AND name = ?;

-- It only grows, over all leases and all restarts: a later holder always has a higher one.
-- name: next_token
UPDATE lease_tokens SET last = last + 1 WHERE id = 1 RETURNING last;

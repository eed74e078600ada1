-- name: upsert
INSERT INTO deployments (id, name, version, running, next_token, rollout, created_ms, updated_ms)
VALUES (?,?,?,?,?,?,?,?)
ON CONFLICT (id) DO UPDATE SET
    name = excluded.name, version = excluded.version, running = excluded.running,
    next_token = excluded.next_token, rollout = excluded.rollout, updated_ms = excluded.updated_ms;

-- name: insert_version
INSERT INTO deployment_versions (deployment_id, version, body, note, created_ms)
VALUES (?,?,?,?,?);

-- name: all
SELECT d.id, d.version, d.running, d.next_token, d.rollout, d.created_ms, d.updated_ms, v.body
FROM deployments d JOIN deployment_versions v ON v.deployment_id = d.id AND v.version = d.version
ORDER BY d.id;

-- name: get
SELECT d.id, d.version, d.running, d.next_token, d.rollout, d.created_ms, d.updated_ms, v.body
FROM deployments d JOIN deployment_versions v ON v.deployment_id = d.id AND v.version = d.version
WHERE d.id = ?;

-- name: page
SELECT d.id, d.version, d.running, d.next_token, d.rollout, d.created_ms, d.updated_ms, v.body
FROM deployments d JOIN deployment_versions v ON v.deployment_id = d.id AND v.version = d.version
WHERE d.id < ? ORDER BY d.id DESC LIMIT ?;

-- name: by_name
SELECT d.id, d.version, d.running, d.next_token, d.rollout, d.created_ms, d.updated_ms, v.body
FROM deployments d JOIN deployment_versions v ON v.deployment_id = d.id AND v.version = d.version
WHERE d.name = ? AND d.id < ? ORDER BY d.id DESC LIMIT ?;

-- name: body
SELECT body FROM deployment_versions WHERE deployment_id = ? AND version = ?;

-- name: versions
SELECT version, body, note, created_ms FROM deployment_versions
WHERE deployment_id = ? AND version < ? ORDER BY version DESC LIMIT ?;

-- A version that an artifact belongs to is one that is the current one, or that a copy still runs:
-- one that was never placed will be placed with the current one.
-- name: in_use
SELECT d.name, v.body FROM deployments d
JOIN deployment_versions v ON v.deployment_id = d.id
WHERE v.version = d.version OR EXISTS (
    SELECT 1 FROM instances i WHERE i.deployment_id = d.id AND i.version = v.version
                                 AND i.node_id <> '')
    OR v.version = d.rollout ->> 'fromVersion' AND d.rollout ->> 'state' = 'rolling';

-- name: delete
DELETE FROM deployments WHERE id = ?;

-- name: delete_versions
DELETE FROM deployment_versions WHERE deployment_id = ?;

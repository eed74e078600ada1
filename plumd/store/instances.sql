-- name: upsert
INSERT INTO instances (id, deployment_id, entry, pin, ordinal, generation, version, token,
    replaces, node_id, retired, stop_ms, held, phase, healthy_ms, exit_code, signal, restarts, pid,
    message, started_ms, reported_ms, placed_ms, created_ms)
VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
ON CONFLICT (id) DO UPDATE SET
    entry = excluded.entry, pin = excluded.pin, ordinal = excluded.ordinal,
    version = excluded.version, token = excluded.token, replaces = excluded.replaces,
    node_id = excluded.node_id, retired = excluded.retired, stop_ms = excluded.stop_ms,
    held = excluded.held, phase = excluded.phase, healthy_ms = excluded.healthy_ms,
    exit_code = excluded.exit_code, signal = excluded.signal, restarts = excluded.restarts,
    pid = excluded.pid, message = excluded.message, started_ms = excluded.started_ms,
    reported_ms = excluded.reported_ms, placed_ms = excluded.placed_ms;

-- name: delete
DELETE FROM instances WHERE id = ?;

-- name: all
SELECT id, deployment_id, entry, pin, ordinal, generation, version, token,
    replaces, node_id, retired, stop_ms, held, phase, healthy_ms, exit_code, signal, restarts, pid,
    message, started_ms, reported_ms, placed_ms, created_ms FROM instances ORDER BY id;

-- name: get
SELECT id, deployment_id, entry, pin, ordinal, generation, version, token,
    replaces, node_id, retired, stop_ms, held, phase, healthy_ms, exit_code, signal, restarts, pid,
    message, started_ms, reported_ms, placed_ms, created_ms FROM instances WHERE id = ?;

-- name: of_deployment
SELECT id, deployment_id, entry, pin, ordinal, generation, version, token,
    replaces, node_id, retired, stop_ms, held, phase, healthy_ms, exit_code, signal, restarts, pid,
    message, started_ms, reported_ms, placed_ms, created_ms FROM instances
WHERE deployment_id = ? ORDER BY id;

-- name: of_node
SELECT id, deployment_id, entry, pin, ordinal, generation, version, token,
    replaces, node_id, retired, stop_ms, held, phase, healthy_ms, exit_code, signal, restarts, pid,
    message, started_ms, reported_ms, placed_ms, created_ms FROM instances
WHERE node_id = ? ORDER BY id;

-- name: page
SELECT id, deployment_id, entry, pin, ordinal, generation, version, token,
    replaces, node_id, retired, stop_ms, held, phase, healthy_ms, exit_code, signal, restarts, pid,
    message, started_ms, reported_ms, placed_ms, created_ms FROM instances
WHERE id > ? ORDER BY id LIMIT ?;

-- name: node_of
SELECT node_id FROM instances WHERE id = ?;

-- name: counts
SELECT node_id, count(*) FROM instances WHERE retired = '' AND node_id <> '' GROUP BY node_id;

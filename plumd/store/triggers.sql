-- name: insert
INSERT INTO triggers (id, name, version, kind, body, target, watched, key, secret, since_seq,
    created_ms, updated_ms) VALUES (?,?,1,?,?,?,?,?,?,?,?,?);

-- name: update
UPDATE triggers SET name = ?, version = ?, kind = ?, body = ?, target = ?, watched = ?, key = ?,
    secret = ?, since_seq = ?, updated_ms = ? WHERE id = ?;

-- name: delete
DELETE FROM triggers WHERE id = ?;

-- name: get
SELECT id, version, body, key, secret, since_seq, created_ms, updated_ms FROM triggers
WHERE id = ?;

-- name: get_by_name
SELECT id, version, body, key, secret, since_seq, created_ms, updated_ms FROM triggers
WHERE name = ?;

-- name: get_by_key
SELECT id, version, body, key, secret, since_seq, created_ms, updated_ms FROM triggers
WHERE key = ? AND key <> '';

-- name: page
SELECT id, version, body, key, secret, since_seq, created_ms, updated_ms FROM triggers
WHERE id < ? ORDER BY id DESC LIMIT ?;

-- All that do not wait to be called: read at the start and when one was saved.
-- name: listening
SELECT id, version, body, key, secret, since_seq, created_ms, updated_ms FROM triggers
WHERE kind <> 'webhook';

-- name: put_event
INSERT INTO trigger_events (trigger_id, event_id, number, state, depth, run_id, task_id, at_ms,
    reason, detail) VALUES (?,?,?,?,?,?,?,?,?,?);

-- name: event
SELECT e.event_id, e.number, e.state, e.run_id, e.task_id, e.at_ms, e.reason, e.detail, r.state,
    t.state
FROM trigger_events e LEFT JOIN workflow_runs r ON r.id = e.run_id
LEFT JOIN tasks t ON t.id = e.task_id
WHERE e.trigger_id = ? AND e.event_id = ?;

-- name: events
SELECT e.event_id, e.number, e.state, e.run_id, e.task_id, e.at_ms, e.reason, e.detail, r.state,
    t.state
FROM trigger_events e LEFT JOIN workflow_runs r ON r.id = e.run_id
LEFT JOIN tasks t ON t.id = e.task_id
WHERE e.trigger_id = ? AND e.number < ? AND e.state BETWEEN ? AND ?
ORDER BY e.number DESC LIMIT ?;

-- name: depth_of_run
SELECT depth FROM trigger_events WHERE run_id = ? AND run_id > 0;

-- name: depth_of_task
SELECT depth FROM trigger_events WHERE task_id = ? AND task_id > 0;

-- name: parent
SELECT coalesce((SELECT parent_id FROM workflow_runs WHERE id = ?), 0);

-- name: prune
DELETE FROM trigger_events WHERE (trigger_id, event_id) IN (
    SELECT trigger_id, event_id FROM trigger_events WHERE at_ms < ? ORDER BY at_ms LIMIT ?);

-- name: follower
SELECT seq FROM followers WHERE name = ?;

-- name: follow
INSERT OR REPLACE INTO followers (name, seq) VALUES (?,?);

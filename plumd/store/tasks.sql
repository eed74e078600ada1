-- name: insert
INSERT INTO tasks (id, name, kind, target_kind, target_ref, def_id, def_version, priority,
    timeout_ms, queue_timeout_ms, max_retries, on_lost, run_id, step, origin_id, scheduled_ms,
    has_input, created_ms, state, attempt, failures, lost, worker_id, due_ms, started_ms,
    finished_ms, cancel_ms)
VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,0,0,?,?,?,?,?);

-- One statement for every transition: SQLite writes the whole row anyway.
-- name: move
UPDATE tasks SET state=?, attempt=?, failures=?, lost=?, worker_id=?, due_ms=?, started_ms=?,
    finished_ms=?, cancel_ms=? WHERE id=?;

-- name: insert_input
INSERT INTO task_inputs (id, payload, blob, labels) VALUES (?,?,?,?);

-- name: insert_key
INSERT INTO task_keys (id, concurrency_key, own_limit, on_conflict) VALUES (?,?,?,?);

-- name: insert_label
INSERT OR IGNORE INTO task_labels (key, value, task_id) VALUES (?,?,?);

-- name: insert_result
INSERT OR REPLACE INTO task_results (id, result, blob, error) VALUES (?,?,?,?);

-- name: insert_attempt
INSERT OR REPLACE INTO attempts (task_id, attempt, ending, worker_id, node_id, started_ms,
    finished_ms, error) VALUES (?,?,?,?,?,?,?,?);

-- The core's whole state, oldest first, as Scheduler.load wants it; of what waits for its retry the
-- end of its last attempt stands in place of a start.
-- name: live
SELECT t.id, t.state, t.name, t.kind, t.target_kind, t.target_ref, t.priority, t.timeout_ms,
    t.queue_timeout_ms, t.max_retries, t.on_lost, t.created_ms, t.due_ms,
    CASE WHEN t.state = 3 THEN coalesce((SELECT a.finished_ms FROM attempts a
        WHERE a.task_id = t.id AND a.attempt = t.attempt), 0) ELSE t.started_ms END,
    t.cancel_ms, t.attempt, t.failures, t.lost, t.worker_id, t.run_id, t.step, t.has_input,
    coalesce(k.concurrency_key, ''), coalesce(k.own_limit, 0)
FROM tasks t LEFT JOIN task_keys k ON k.id = t.id WHERE t.state < 4;

-- name: newest_id
SELECT max(coalesce((SELECT max(id) FROM tasks), 0), coalesce((SELECT max(id) FROM task_defs), 0),
    coalesce((SELECT max(id) FROM workflows), 0), coalesce((SELECT max(id) FROM workflow_runs), 0),
    coalesce((SELECT max(id) FROM schedules), 0));

-- name: get
SELECT t.id, t.name, t.kind, t.target_kind, t.target_ref, t.def_id, t.def_version, t.priority,
    t.timeout_ms, t.queue_timeout_ms, t.max_retries, t.on_lost, t.run_id, t.step, t.origin_id,
    t.scheduled_ms, t.created_ms, t.state, t.attempt, t.worker_id, t.due_ms, t.started_ms,
    t.finished_ms, t.cancel_ms, i.payload, i.blob, i.labels, r.result, r.blob, r.error,
    coalesce(k.concurrency_key, ''), coalesce(k.own_limit, 0), coalesce(k.on_conflict, 0)
FROM tasks t LEFT JOIN task_inputs i ON i.id = t.id LEFT JOIN task_results r ON r.id = t.id
LEFT JOIN task_keys k ON k.id = t.id
WHERE t.id = ?;

-- name: input
SELECT payload, blob FROM task_inputs WHERE id = ?;

-- name: inputs
SELECT id, payload, blob FROM task_inputs WHERE id IN (SELECT value FROM json_each(?));

-- name: attempts
SELECT attempt, ending, worker_id, node_id, started_ms, finished_ms, error
FROM attempts WHERE task_id = ? ORDER BY attempt;

-- name: of_run
SELECT id, state, step, attempt, started_ms, finished_ms FROM tasks WHERE run_id = ? AND run_id > 0 ORDER BY id;

-- name: delete
DELETE FROM tasks WHERE id = ? AND state >= 4;

-- name: delete_input
DELETE FROM task_inputs WHERE id = ?;

-- name: delete_key
DELETE FROM task_keys WHERE id = ?;

-- name: delete_result
DELETE FROM task_results WHERE id = ?;

-- name: delete_attempts
DELETE FROM attempts WHERE task_id = ?;

-- name: delete_labels
DELETE FROM task_labels WHERE task_id = ?;

-- Ids are time-ordered, so what may be old is one range of the key. It holds the tasks of runs too,
-- which go with their runs: so many rows are looked at, wanted or not.
-- name: looked_at
SELECT coalesce(max(id), 0) FROM (SELECT id FROM tasks WHERE id > ? AND id < ? ORDER BY id LIMIT ?);

-- name: old
SELECT id FROM tasks WHERE id > ? AND id <= ? AND state >= 4 AND run_id = 0 AND finished_ms < ?
ORDER BY id;

-- An index is read, not the rows.
-- name: count
SELECT count(*) FROM tasks;

-- name: oldest
SELECT id, run_id FROM tasks WHERE id > ? AND state >= 4 ORDER BY id LIMIT ?;

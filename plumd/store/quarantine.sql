-- name: insert
INSERT INTO quarantine (subject, row_id, reason, at_ms) VALUES (?,?,?,?);

-- name: all
SELECT subject, row_id, reason, at_ms FROM quarantine ORDER BY id DESC LIMIT ?;

-- name: live_task_ids
SELECT id FROM tasks WHERE state < 4;

-- name: live_task
SELECT id, state, name, kind, target_kind, target_ref, priority, timeout_ms, queue_timeout_ms,
    max_retries, on_lost, created_ms, due_ms, started_ms, cancel_ms, attempt, failures, lost,
    worker_id, run_id, step, has_input
FROM tasks WHERE id = ?;

-- name: end_task
UPDATE tasks SET state = 5, finished_ms = ?, name = '(unreadable)', target_kind = '',
    target_ref = '', worker_id = NULL WHERE id = ?;

-- name: end_run
UPDATE workflow_runs SET state = 5, finished_ms = ?, pins = '[]', payload = NULL, steps = x'5b5d'
WHERE id = ?;

-- A worker that lives registers again; a body that cannot be read would spoil every list of them.
-- name: forget_worker
DELETE FROM workers WHERE ? > 0 AND id = ?;

-- name: worker_rows
SELECT id, body FROM workers WHERE offline_ms = 0 ORDER BY id;

-- name: insert
INSERT INTO quarantine (subject, row_id, reason, at_ms) VALUES (?,?,?,?);

-- name: live_task_ids
SELECT id FROM tasks WHERE state < 4;

-- name: live_task
SELECT t.id, t.state, t.name, t.kind, t.target_kind, t.target_ref, t.priority, t.timeout_ms,
    t.queue_timeout_ms, t.max_retries, t.on_lost, t.created_ms, t.due_ms, t.started_ms,
    t.cancel_ms, t.attempt, t.failures, t.lost, t.worker_id, t.run_id, t.step, t.has_input,
    coalesce(k.concurrency_key, ''), coalesce(k.own_limit, 0)
FROM tasks t LEFT JOIN task_keys k ON k.id = t.id WHERE t.id = ?;

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

-- name: insert
INSERT INTO workflow_runs (id, workflow_id, version, pins, payload, state, created_ms, finished_ms,
    cancel_ms, parent_id, parent_step, depth, origin_id) VALUES (?,?,?,?,?,2,?,0,0,?,?,?,?);

-- name: finish
UPDATE workflow_runs SET state = ?, finished_ms = ?, steps = ?, result = ?, error = ?, paused_ms = 0
WHERE id = ?;

-- name: mark
UPDATE workflow_runs SET cancel_ms = ?, stop = ?, paused_ms = ? WHERE id = ?;

-- One statement for a step's begin and end: the later row replaces the earlier one.
-- name: put_step
INSERT OR REPLACE INTO run_steps (run_id, step, state, ref, started_ms, finished_ms, data)
VALUES (?,?,?,?,?,?,?);

-- name: steps
SELECT step, state, ref, 0, started_ms, finished_ms, data FROM run_steps
WHERE run_id = ? AND step BETWEEN ? AND ? ORDER BY step;

-- Of outer steps alone: they come first.
-- name: cut
SELECT 1 FROM run_steps WHERE run_id = ? AND step < ? AND data = ? LIMIT 1;

-- name: tasks
SELECT step, state, id, attempt, started_ms, finished_ms, NULL FROM tasks
WHERE run_id = ? AND run_id > 0 AND step BETWEEN ? AND ? ORDER BY step, id;

-- name: last_task
SELECT coalesce(max(step), -1) FROM tasks WHERE run_id = ? AND run_id > 0 AND step BETWEEN ? AND ?;

-- name: last_step
SELECT coalesce(max(step), -1) FROM run_steps WHERE run_id = ? AND step BETWEEN ? AND ?;

-- name: live
SELECT id, workflow_id, version, pins, payload, created_ms, cancel_ms, parent_id, parent_step,
    depth, origin_id, stop, paused_ms, coalesce(
        (SELECT started_ms FROM run_steps WHERE run_id = id AND step = -1), created_ms)
FROM workflow_runs WHERE state < 4;

-- name: get
SELECT id, workflow_id, version, pins, payload, state, created_ms, finished_ms, cancel_ms, steps,
    parent_id, parent_step, origin_id, paused_ms, result, error,
    EXISTS (SELECT 1 FROM run_steps WHERE run_id = workflow_runs.id)
FROM workflow_runs WHERE id = ?;

-- name: paused
SELECT id, workflow_id, version, pins, payload, state, created_ms, finished_ms, cancel_ms, NULL,
    parent_id, parent_step, origin_id, paused_ms, NULL, error, 1
FROM workflow_runs WHERE paused_ms > 0 AND id < ? AND (? = 0 OR workflow_id = ?)
ORDER BY id DESC LIMIT ?;

-- name: delete
DELETE FROM workflow_runs WHERE id = ? AND state >= 4;

-- name: delete_steps
DELETE FROM run_steps WHERE run_id = ?;

-- name: tasks_of
SELECT id FROM tasks WHERE run_id = ? AND run_id > 0 LIMIT ?;

-- name: of_workflow
SELECT id FROM workflow_runs WHERE workflow_id = ? AND state >= 4 LIMIT ?;

-- name: any_of_workflow
SELECT 1 FROM workflow_runs WHERE workflow_id = ? LIMIT 1;

-- name: prunable
SELECT id FROM workflow_runs WHERE id < ? AND state >= 4 AND finished_ms < ? ORDER BY id LIMIT ?;

-- name: state_of
SELECT state FROM workflow_runs WHERE id = ?;

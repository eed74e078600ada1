-- name: insert
INSERT INTO workflow_runs (id, workflow_id, version, pins, payload, state, created_ms, finished_ms,
    cancel_ms) VALUES (?,?,?,?,?,2,?,0,0);

-- name: finish
UPDATE workflow_runs SET state = ?, finished_ms = ?, steps = ? WHERE id = ?;

-- name: cancel
UPDATE workflow_runs SET cancel_ms = ? WHERE id = ?;

-- name: live
SELECT id, workflow_id, version, pins, payload, cancel_ms FROM workflow_runs WHERE state < 4;

-- name: get
SELECT id, workflow_id, version, pins, payload, state, created_ms, finished_ms, cancel_ms, steps
FROM workflow_runs WHERE id = ?;

-- name: page
SELECT id, workflow_id, version, pins, payload, state, created_ms, finished_ms, cancel_ms, steps
FROM workflow_runs WHERE {where} ORDER BY id DESC LIMIT ?;

-- name: delete
DELETE FROM workflow_runs WHERE id = ? AND state >= 4;

-- name: tasks_of
SELECT id FROM tasks WHERE run_id = ? AND run_id > 0 LIMIT ?;

-- name: of_workflow
SELECT id FROM workflow_runs WHERE workflow_id = ? AND state >= 4 LIMIT ?;

-- name: any_of_workflow
SELECT 1 FROM workflow_runs WHERE workflow_id = ? LIMIT 1;

-- name: any_live_of_workflow
SELECT id FROM workflow_runs WHERE workflow_id = ? AND state < 4 LIMIT 1;

-- name: prunable
SELECT id FROM workflow_runs WHERE id < ? AND state >= 4 ORDER BY id LIMIT ?;

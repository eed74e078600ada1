-- name: insert_def
INSERT INTO task_defs (id, name, version, created_ms, updated_ms) VALUES (?,?,1,?,?);

-- name: insert_def_version
INSERT INTO task_def_versions (def_id, version, body, created_ms) VALUES (?,?,?,?);

-- name: update_def
UPDATE task_defs SET name = ?, version = ?, updated_ms = ? WHERE id = ?;

-- name: delete_def
DELETE FROM task_defs WHERE id = ?;

-- name: get_def
SELECT d.id, d.version, v.body, d.created_ms, d.updated_ms FROM task_defs d
JOIN task_def_versions v ON v.def_id = d.id AND v.version = d.version WHERE d.id = ?;

-- name: get_def_by_name
SELECT d.id, d.version, v.body, d.created_ms, d.updated_ms FROM task_defs d
JOIN task_def_versions v ON v.def_id = d.id AND v.version = d.version WHERE d.name = ?;

-- name: def_version
SELECT body, created_ms FROM task_def_versions WHERE def_id = ? AND version = ?;

-- name: def_versions
SELECT version, body, created_ms FROM task_def_versions WHERE def_id = ? AND version < ?
ORDER BY version DESC LIMIT ?;

-- name: workflow_versions
SELECT version, body, created_ms FROM workflow_versions WHERE workflow_id = ? AND version < ?
ORDER BY version DESC LIMIT ?;

-- name: page_defs
SELECT d.id, d.version, v.body, d.created_ms, d.updated_ms FROM task_defs d
JOIN task_def_versions v ON v.def_id = d.id AND v.version = d.version
WHERE d.id < ? ORDER BY d.id DESC LIMIT ?;

-- name: insert_workflow
INSERT INTO workflows (id, name, version, created_ms, updated_ms, deleted_ms) VALUES (?,?,1,?,?,0);

-- name: insert_workflow_version
INSERT INTO workflow_versions (workflow_id, version, body, created_ms) VALUES (?,?,?,?);

-- name: update_workflow
UPDATE workflows SET name = ?, version = ?, updated_ms = ? WHERE id = ?;

-- name: get_workflow
SELECT w.id, w.version, v.body, w.created_ms, w.updated_ms FROM workflows w
JOIN workflow_versions v ON v.workflow_id = w.id AND v.version = w.version
WHERE w.id = ? AND w.deleted_ms = 0;

-- name: get_workflow_by_name
SELECT w.id, w.version, v.body, w.created_ms, w.updated_ms FROM workflows w
JOIN workflow_versions v ON v.workflow_id = w.id AND v.version = w.version
WHERE w.name = ? AND w.deleted_ms = 0;

-- name: workflow_version
SELECT body, created_ms FROM workflow_versions WHERE workflow_id = ? AND version = ?;

-- name: page_workflows
SELECT w.id, w.version, v.body, w.created_ms, w.updated_ms FROM workflows w
JOIN workflow_versions v ON v.workflow_id = w.id AND v.version = w.version
WHERE w.id < ? AND w.deleted_ms = 0 ORDER BY w.id DESC LIMIT ?;

-- name: workflows_using
SELECT v.body FROM workflows w
JOIN workflow_versions v ON v.workflow_id = w.id AND v.version = w.version WHERE w.deleted_ms = 0;

-- name: hide_workflow
UPDATE workflows SET deleted_ms = ? WHERE id = ? AND deleted_ms = 0;

-- name: hidden_workflows
SELECT id FROM workflows WHERE deleted_ms > 0;

-- name: forget_workflow
DELETE FROM workflows WHERE id = ?;

-- name: forget_workflow_versions
DELETE FROM workflow_versions WHERE workflow_id = ?;

-- Schedules and triggers that start it; a trigger may also wait for its end.
-- name: users_of
SELECT 'schedule', name FROM schedules WHERE target = ? AND target <> ''
UNION ALL SELECT 'trigger', name FROM triggers WHERE target = ?
UNION ALL SELECT 'trigger', name FROM triggers WHERE watched = ? AND watched <> '' LIMIT 1;

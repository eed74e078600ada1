-- The newest runs of a workflow that are over.
-- name: ended
SELECT version, steps FROM workflow_runs WHERE workflow_id = ? AND state >= 4
ORDER BY id DESC LIMIT ?;

-- name: named
SELECT 1 WHERE EXISTS (SELECT 1 FROM task_inputs WHERE blob = ? AND blob IS NOT NULL)
    OR EXISTS (SELECT 1 FROM task_results WHERE blob = ? AND blob IS NOT NULL);

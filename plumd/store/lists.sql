-- Lists of tasks. {candidates} is one of the statements below, or several joined by UNION ALL, which
-- SQLite merges in order; {where} is put together by lists.py from fixed pieces; values are bound. The
-- inner LIMIT says how many rows are looked at, the outer one how many are wanted.

-- name: page
SELECT t.id, t.name, t.kind, t.target_kind, t.target_ref, t.def_id, t.def_version, t.priority,
    t.timeout_ms, t.queue_timeout_ms, t.max_retries, t.on_lost, t.run_id, t.step, t.origin_id,
    t.scheduled_ms, t.created_ms, t.state, t.attempt, t.worker_id, t.due_ms, t.started_ms,
    t.finished_ms, t.cancel_ms, i.payload, i.blob, i.labels, r.result, r.blob, r.error,
    coalesce(k.concurrency_key, ''), coalesce(k.own_limit, 0), coalesce(k.on_conflict, 0)
FROM ({candidates} ORDER BY id {order} LIMIT ?) c CROSS JOIN tasks t ON t.id = c.id
    LEFT JOIN task_inputs i ON i.id = t.id LEFT JOIN task_results r ON r.id = t.id
    LEFT JOIN task_keys k ON k.id = t.id
WHERE {where} LIMIT ?;

-- name: ids
SELECT t.id FROM ({candidates} ORDER BY id {order} LIMIT ?) c CROSS JOIN tasks t ON t.id = c.id
    LEFT JOIN task_results r ON r.id = t.id
WHERE {where} LIMIT ?;

-- How many candidates there are, up to the limit, and the last of them.
-- name: reach
SELECT count(*), coalesce(CASE ? WHEN 1 THEN min(id) ELSE max(id) END, 0)
FROM ({candidates} ORDER BY id {order} LIMIT ?);

-- name: by_key
SELECT id FROM tasks WHERE id BETWEEN ? AND ?

-- name: by_live
SELECT id FROM tasks INDEXED BY tasks_live WHERE state = ? AND state < 4 AND id BETWEEN ? AND ?

-- name: by_unwell
SELECT id FROM tasks INDEXED BY tasks_unwell WHERE state = ? AND state > 4 AND id BETWEEN ? AND ?

-- name: by_name
SELECT id FROM tasks INDEXED BY tasks_by_name WHERE name = ? AND id BETWEEN ? AND ?

-- name: by_def
SELECT id FROM tasks INDEXED BY tasks_by_def WHERE def_id = ? AND def_id > 0 AND id BETWEEN ? AND ?

-- name: by_run
SELECT id FROM tasks INDEXED BY tasks_by_run WHERE run_id = ? AND run_id > 0 AND id BETWEEN ? AND ?

-- name: by_label
SELECT task_id AS id FROM task_labels WHERE key = ? AND value = ? AND task_id BETWEEN ? AND ?

-- name: has_label
EXISTS (SELECT 1 FROM task_labels l WHERE l.key = ? AND l.value = ? AND l.task_id = t.id)

-- name: run_ids
SELECT t.id FROM ({candidates} ORDER BY id {order} LIMIT ?) c
    CROSS JOIN workflow_runs t ON t.id = c.id
WHERE {where} LIMIT ?;

-- name: runs_by_key
SELECT id FROM workflow_runs WHERE id BETWEEN ? AND ?

-- name: runs_by_workflow
SELECT id FROM workflow_runs INDEXED BY workflow_runs_by_workflow
WHERE workflow_id = ? AND id BETWEEN ? AND ?

-- name: runs_by_state
SELECT id FROM workflow_runs INDEXED BY workflow_runs_by_state
WHERE state = ? AND id BETWEEN ? AND ?

-- name: failures
SELECT t.id, t.name, t.state, t.finished_ms, r.error
FROM (SELECT id FROM tasks INDEXED BY tasks_unwell WHERE state = 5 AND state > 4
      UNION ALL SELECT id FROM tasks INDEXED BY tasks_unwell WHERE state = 6 AND state > 4
      ORDER BY id DESC LIMIT ?) c CROSS JOIN tasks t ON t.id = c.id
    LEFT JOIN task_results r ON r.id = t.id;

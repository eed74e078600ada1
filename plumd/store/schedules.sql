-- name: insert
INSERT INTO schedules (id, name, version, body, target, created_ms, updated_ms)
VALUES (?,?,1,?,?,?,?);

-- name: update
UPDATE schedules SET name = ?, version = ?, body = ?, target = ?, updated_ms = ? WHERE id = ?;

-- name: delete
DELETE FROM schedules WHERE id = ?;

-- name: get
SELECT s.id, s.version, s.body, s.created_ms, s.updated_ms, p.done_ms, p.next_ms, p.due_ms
FROM schedules s JOIN schedule_plans p ON p.id = s.id WHERE s.id = ?;

-- Several at once, and whether the next slot of each has been dealt with.
-- name: look
SELECT s.id, s.version, s.body, s.created_ms, s.updated_ms, p.done_ms, p.next_ms, p.due_ms,
    EXISTS (SELECT 1 FROM fires f WHERE f.schedule_id = p.id AND f.slot_ms = p.next_ms
            AND f.state <> 3)
FROM json_each(?) CROSS JOIN schedules s ON s.id = json_each.value
JOIN schedule_plans p ON p.id = s.id;

-- name: get_by_name
SELECT s.id, s.version, s.body, s.created_ms, s.updated_ms, p.done_ms, p.next_ms, p.due_ms
FROM schedules s JOIN schedule_plans p ON p.id = s.id WHERE s.name = ?;

-- name: page
SELECT s.id, s.version, s.body, s.created_ms, s.updated_ms, p.done_ms, p.next_ms, p.due_ms
FROM schedules s JOIN schedule_plans p ON p.id = s.id WHERE s.id < ? ORDER BY s.id DESC LIMIT ?;

-- Written whole by whoever saves a schedule.
-- name: put_plan
INSERT OR REPLACE INTO schedule_plans (id, version, paced, done_ms, next_ms, due_ms, zones)
VALUES (?,?,?,?,?,?,?);

-- A fire that was decided by an older version leaves the plan of the newer one alone.
-- name: move_plan
UPDATE schedule_plans SET done_ms = max(done_ms, ?), next_ms = ?, due_ms = ?, zones = ?
WHERE id = ? AND version = ?;

-- name: delete_plan
DELETE FROM schedule_plans WHERE id = ?;

-- At the start alone.
-- name: plans
SELECT id, paced, due_ms, zones FROM schedule_plans WHERE next_ms > 0;

-- The wall clock was set: what counts elapsed time keeps its distance to now.
-- name: shift_paced
UPDATE schedule_plans SET next_ms = next_ms + ?, due_ms = due_ms + ?
WHERE paced = 1 AND next_ms > 0;

-- Those that have fired in times that lie ahead, since the wall clock was set back.
-- name: ahead
SELECT id FROM schedule_plans WHERE paced = 0 AND done_ms > ?;

-- name: use_calendar
INSERT INTO schedule_calendars (calendar, schedule_id) VALUES (?,?);

-- name: leave_calendars
DELETE FROM schedule_calendars WHERE schedule_id = ?;

-- name: uses_calendar
SELECT s.name FROM schedule_calendars c JOIN schedules s ON s.id = c.schedule_id
WHERE c.calendar = ? LIMIT 1;

-- name: put_fire
INSERT OR REPLACE INTO fires (schedule_id, slot_ms, kind, state, alone, live, count, late_ms, at_ms,
    run_id, task_id, reason, detail) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?);

-- name: end_fire
UPDATE fires SET live = 0 WHERE schedule_id = ? AND slot_ms = ?;

-- name: drop_queued
UPDATE fires SET state = 2, reason = ?, at_ms = ? WHERE schedule_id = ? AND state = 0;

-- name: queued
SELECT schedule_id, slot_ms, kind, alone FROM fires WHERE state = 0
ORDER BY schedule_id, slot_ms;

-- name: live
SELECT schedule_id, slot_ms, run_id, task_id FROM fires WHERE live = 1;

-- Missed slots are open: they may still be started.
-- name: taken
SELECT slot_ms FROM fires WHERE schedule_id = ? AND slot_ms BETWEEN ? AND ? AND state <> 3;

-- name: fire
SELECT f.slot_ms, f.kind, f.state, f.count, f.late_ms, f.at_ms, f.run_id, f.task_id, f.reason,
    f.detail, r.state, t.state
FROM fires f LEFT JOIN workflow_runs r ON r.id = f.run_id LEFT JOIN tasks t ON t.id = f.task_id
WHERE f.schedule_id = ? AND f.slot_ms = ?;

-- name: fires
SELECT f.slot_ms, f.kind, f.state, f.count, f.late_ms, f.at_ms, f.run_id, f.task_id, f.reason,
    f.detail, r.state, t.state
FROM fires f LEFT JOIN workflow_runs r ON r.id = f.run_id LEFT JOIN tasks t ON t.id = f.task_id
WHERE f.schedule_id = ? AND f.slot_ms < ? AND f.state BETWEEN ? AND ?
ORDER BY f.slot_ms DESC LIMIT ?;

-- Of several schedules the fire of the latest slot: of each one seek in the primary key.
-- name: latest
SELECT f.schedule_id, f.slot_ms, f.kind, f.state, f.count, f.late_ms, f.at_ms, f.run_id, f.task_id,
    f.reason, f.detail, r.state, t.state
FROM json_each(?) CROSS JOIN fires f ON f.schedule_id = json_each.value
    AND f.slot_ms = (SELECT max(l.slot_ms) FROM fires l WHERE l.schedule_id = json_each.value)
LEFT JOIN workflow_runs r ON r.id = f.run_id LEFT JOIN tasks t ON t.id = f.task_id;

-- name: prune
DELETE FROM fires WHERE (schedule_id, slot_ms) IN (
    SELECT schedule_id, slot_ms FROM fires WHERE at_ms < ? AND state > 0 AND live = 0
    ORDER BY at_ms LIMIT ?);

-- name: put_calendar
INSERT OR REPLACE INTO calendars (name, version, body, updated_ms) VALUES (?,?,?,?);

-- name: calendar
SELECT name, version, body, updated_ms FROM calendars WHERE name = ?;

-- name: calendars
SELECT name, version, body, updated_ms FROM calendars WHERE name > ? ORDER BY name LIMIT ?;

-- name: delete_calendar
DELETE FROM calendars WHERE name = ?;

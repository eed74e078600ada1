-- name: rules
SELECT id, version, body FROM alarm_rules ORDER BY id;

-- name: rule
SELECT version, body FROM alarm_rules WHERE id = ?;

-- name: rule_count
SELECT count(*) FROM alarm_rules;

-- name: put_rule
INSERT INTO alarm_rules (id, version, body) VALUES (?,?,?)
ON CONFLICT (id) DO UPDATE SET version = excluded.version, body = excluded.body;

-- name: delete_rule
DELETE FROM alarm_rules WHERE id = ?;

-- name: raise
INSERT INTO alarms (id, rule, name, severity, device, state, value, raised_ms, cleared_ms, last,
    acked_ms, acked_by, note) VALUES (?,?,?,?,?,?,?,?,0,'',0,'','');

-- name: clear
UPDATE alarms SET cleared_ms = ?, last = ? WHERE id = ? AND cleared_ms = 0;

-- name: acknowledge
UPDATE alarms SET acked_ms = ?, acked_by = ?, note = ? WHERE id = ?;

-- name: get
SELECT id, rule, name, severity, device, state, value, raised_ms, cleared_ms, last, acked_ms,
    acked_by, note FROM alarms WHERE id = ?;

-- name: active
SELECT id, rule, name, severity, device, state, value, raised_ms, cleared_ms, last, acked_ms,
    acked_by, note FROM alarms WHERE cleared_ms = 0 AND id < ? ORDER BY id DESC LIMIT ?;

-- name: page
SELECT id, rule, name, severity, device, state, value, raised_ms, cleared_ms, last, acked_ms,
    acked_by, note FROM alarms WHERE id < ? ORDER BY id DESC LIMIT ?;

-- name: of_device
SELECT id, rule, name, severity, device, state, value, raised_ms, cleared_ms, last, acked_ms,
    acked_by, note FROM alarms WHERE device = ? AND id < ? ORDER BY id DESC LIMIT ?;

-- name: active_of_device
SELECT id, rule, name, severity, device, state, value, raised_ms, cleared_ms, last, acked_ms,
    acked_by, note FROM alarms WHERE device = ? AND cleared_ms = 0 AND id < ?
ORDER BY id DESC LIMIT ?;

-- The oldest come first, so beside the slice no more is looked at than is active, which stays.
-- name: prune
DELETE FROM alarms WHERE id IN (
    SELECT id FROM alarms WHERE id < ? AND cleared_ms > 0 ORDER BY id LIMIT ?);

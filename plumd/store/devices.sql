-- name: register
INSERT INTO devices (id, node_id, type, url, polls, beat_ms, state_desc, op_desc, registered_ms)
VALUES (?,?,?,?,?,?,?,?,?)
ON CONFLICT (id) DO UPDATE SET node_id = excluded.node_id, type = excluded.type,
    url = excluded.url, polls = excluded.polls, beat_ms = excluded.beat_ms,
    state_desc = excluded.state_desc, op_desc = excluded.op_desc;

-- name: count
SELECT count(*) FROM devices;

-- name: all
SELECT number, id, node_id, type, url, polls, beat_ms, state_desc, op_desc, registered_ms
FROM devices ORDER BY id;

-- name: get
SELECT number, id, node_id, type, url, polls, beat_ms, state_desc, op_desc, registered_ms
FROM devices WHERE id = ?;

-- name: exists
SELECT count(*) FROM devices WHERE number = ?;

-- name: delete
DELETE FROM devices WHERE number = ?;

-- name: delete_states
DELETE FROM device_states WHERE device = ?;

-- name: states
SELECT name, value, at_ms FROM device_states WHERE device = ? ORDER BY name;

-- name: set_state
INSERT INTO device_states (device, name, value, at_ms) VALUES (?,?,?,?)
ON CONFLICT (device, name) DO UPDATE SET value = excluded.value, at_ms = excluded.at_ms;

-- name: last_seq
SELECT coalesce(max(seq), 0) FROM device_history WHERE device = ?;

-- name: report
INSERT INTO device_history (device, seq, at_ms, received_ms, states) VALUES (?,?,?,?,?);

-- What is beyond the bound of one device: some rows at a time.
-- name: bound
DELETE FROM device_history WHERE device = ? AND seq <= ?;

-- name: history
SELECT seq, at_ms, received_ms, states FROM device_history WHERE device = ? AND seq < ?
ORDER BY seq DESC LIMIT ?;

-- From each device with reports to the next by the key.
-- name: reporting
WITH RECURSIVE found (device) AS (
    SELECT (SELECT min(device) FROM device_history)
    UNION ALL
    SELECT (SELECT min(h.device) FROM device_history h WHERE h.device > found.device) FROM found
    WHERE found.device IS NOT NULL)
SELECT device FROM found WHERE device IS NOT NULL;

-- The oldest reports come first, so no more than the slice is looked at.
-- name: prune
DELETE FROM device_history WHERE device = ? AND seq IN (
    SELECT seq FROM (
        SELECT seq, received_ms FROM device_history WHERE device = ? ORDER BY seq LIMIT ?)
    WHERE received_ms < ?);

-- The last of those that `prune` takes; 0 when it takes none.
-- name: last_older
SELECT coalesce(max(seq), 0) FROM (
    SELECT seq, received_ms FROM device_history WHERE device = ? ORDER BY seq LIMIT ?)
WHERE received_ms < ?;

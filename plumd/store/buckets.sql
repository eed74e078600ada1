-- name: add
INSERT INTO device_buckets (device, name, width, at_ms, count, low, high, total, last)
VALUES (?,?,?,?,?,?,?,?,?)
ON CONFLICT (device, name, width, at_ms) DO UPDATE SET count = count + excluded.count,
    low = min(low, excluded.low), high = max(high, excluded.high),
    total = total + excluded.total, last = excluded.last;

-- name: range
SELECT at_ms, count, low, high, total, last FROM device_buckets
WHERE device = ? AND name = ? AND width = ? AND at_ms >= ? AND at_ms < ? ORDER BY at_ms;

-- name: names
SELECT DISTINCT name FROM device_buckets WHERE device = ?;

-- name: prune
DELETE FROM device_buckets WHERE device = ? AND name = ? AND width = ? AND at_ms < ?;

-- name: forget
DELETE FROM device_buckets WHERE device = ?;

-- From each device with buckets to the next by the key.
-- name: devices
WITH RECURSIVE found (device) AS (
    SELECT (SELECT min(device) FROM device_buckets)
    UNION ALL
    SELECT (SELECT min(b.device) FROM device_buckets b WHERE b.device > found.device) FROM found
    WHERE found.device IS NOT NULL)
SELECT device FROM found WHERE device IS NOT NULL;

-- name: retention
SELECT name, minutes_days, hours_days FROM device_retention WHERE device = ? ORDER BY name;

-- name: set_retention
INSERT INTO device_retention (device, name, minutes_days, hours_days) VALUES (?,?,?,?);

-- name: clear_retention
DELETE FROM device_retention WHERE device = ?;

-- name: oldest
SELECT seq, at_ms, received_ms, states FROM device_history WHERE device = ? AND seq <= ?
ORDER BY seq LIMIT ?;

-- name: between
SELECT seq, at_ms, received_ms, states FROM device_history
WHERE device = ? AND received_ms >= ? AND received_ms < ? ORDER BY seq;

-- name: insert
INSERT INTO webhooks (id, name, version, body, secret, since_seq, created_ms, updated_ms)
VALUES (?,?,1,?,?,?,?,?);

-- name: update
UPDATE webhooks SET name = ?, version = ?, body = ?, secret = ?, since_seq = ?, updated_ms = ?
WHERE id = ?;

-- name: delete
DELETE FROM webhooks WHERE id = ?;

-- name: get
SELECT id, version, body, secret, since_seq, created_ms, updated_ms, dropped
FROM webhooks WHERE id = ?;

-- name: get_by_name
SELECT id, version, body, secret, since_seq, created_ms, updated_ms, dropped
FROM webhooks WHERE name = ?;

-- name: page
SELECT id, version, body, secret, since_seq, created_ms, updated_ms, dropped FROM webhooks
WHERE id < ? ORDER BY id DESC LIMIT ?;

-- Read at the start and when one was saved.
-- name: all
SELECT id, version, body, secret, since_seq, created_ms, updated_ms, dropped FROM webhooks;

-- An event is noted once, also when it is looked at twice, and for nobody who is gone meanwhile.
-- name: note
INSERT OR IGNORE INTO deliveries (webhook_id, seq, state, attempts, due_ms, status, detail,
    created_ms, ended_ms, topic, body)
SELECT id, ?, 0, 0, ?, 0, '', ?, 0, ?, ? FROM webhooks WHERE id = ?;

-- name: due
SELECT seq, attempts, due_ms, created_ms, body FROM deliveries
WHERE webhook_id = ? AND state = 0 ORDER BY due_ms LIMIT ?;

-- name: tried
UPDATE deliveries SET state = ?, attempts = ?, due_ms = ?, status = ?, detail = ?, ended_ms = ?
WHERE webhook_id = ? AND seq = ? AND state = 0;

-- name: again
UPDATE deliveries SET state = 0, attempts = 0, due_ms = ?, ended_ms = 0
WHERE webhook_id = ? AND seq = ? AND state > 0;

-- name: give_up
DELETE FROM deliveries WHERE webhook_id = ? AND state = 0;

-- name: waiting
SELECT count(*) FROM deliveries WHERE webhook_id = ? AND state = 0;

-- name: drop_oldest
DELETE FROM deliveries WHERE (webhook_id, seq) IN (
    SELECT webhook_id, seq FROM deliveries WHERE webhook_id = ? AND state = 0
    ORDER BY seq LIMIT ?);

-- name: count_dropped
UPDATE webhooks SET dropped = dropped + ? WHERE id = ?;

-- name: delivery
SELECT seq, state, attempts, due_ms, status, detail, created_ms, ended_ms, topic, body
FROM deliveries WHERE webhook_id = ? AND seq = ?;

-- Of the delivery that ended last before this one did; -1 = there is none. Some are under way at once, so the
-- numbers do not say which it was.
-- name: ended_before
SELECT coalesce((SELECT state FROM deliveries WHERE webhook_id = ? AND state > 0 AND seq <> ?
    ORDER BY ended_ms DESC, seq DESC LIMIT 1), -1);

-- name: deliveries
SELECT seq, state, attempts, due_ms, status, detail, created_ms, ended_ms, topic, body
FROM deliveries WHERE webhook_id = ? AND seq < ? AND state BETWEEN ? AND ?
ORDER BY seq DESC LIMIT ?;

-- What waits is not forgotten, however old it is.
-- name: prune
DELETE FROM deliveries WHERE (webhook_id, seq) IN (
    SELECT webhook_id, seq FROM deliveries WHERE created_ms < ? AND state > 0
    ORDER BY created_ms LIMIT ?);

-- Nothing is kept of events that the log itself has forgotten.
-- name: prune_before
DELETE FROM deliveries WHERE (webhook_id, seq) IN (
    SELECT webhook_id, seq FROM deliveries WHERE webhook_id = ? AND seq < ? AND state > 0
    ORDER BY seq LIMIT ?);

-- name: insert
INSERT INTO events (first_seq, count, at_ms, items) VALUES (?,?,?,?);

-- name: next_seq
SELECT coalesce((SELECT first_seq + count FROM events
    WHERE first_seq = (SELECT max(first_seq) FROM events)), 1);

-- name: oldest_seq
SELECT coalesce((SELECT min(first_seq) FROM events), 1);

-- name: has
SELECT 1 FROM events WHERE first_seq = ?;

-- The record that holds the sequence number, and those after it.
-- name: since
SELECT first_seq, count, items FROM events
WHERE first_seq >= coalesce((SELECT max(first_seq) FROM events WHERE first_seq <= ?), 0)
ORDER BY first_seq LIMIT ?;

-- name: before
SELECT first_seq, count, items, at_ms FROM events WHERE first_seq < ?
ORDER BY first_seq DESC LIMIT ?;

-- The oldest records come first, so no more than the slice is looked at.
-- name: prune
DELETE FROM events WHERE first_seq IN
    (SELECT first_seq FROM (SELECT first_seq, at_ms FROM events ORDER BY first_seq LIMIT ?)
    WHERE at_ms < ? OR first_seq < ?);

-- What people call the things that events name by their ids.

-- name: name_of_workflow
SELECT name FROM workflows WHERE id = ?;

-- name: name_of_schedule
SELECT name FROM schedules WHERE id = ?;

-- name: name_of_trigger
SELECT name FROM triggers WHERE id = ?;

-- name: name_of_webhook
SELECT name FROM webhooks WHERE id = ?;

-- name: name_of_deployment
SELECT name FROM deployments WHERE id = ?;

-- name: name_of_instance
SELECT deployments.name || '/' || entry || '/' || ordinal
FROM instances JOIN deployments ON deployments.id = deployment_id WHERE instances.id = ?;

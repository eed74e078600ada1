-- name: insert
INSERT INTO events (first_seq, count, at_ms, items) VALUES (?,?,?,?);

-- name: next_seq
SELECT coalesce((SELECT first_seq + count FROM events ORDER BY first_seq DESC LIMIT 1), 1);

-- name: oldest_seq
SELECT coalesce((SELECT first_seq FROM events ORDER BY first_seq LIMIT 1), 1);

-- name: has
SELECT 1 FROM events WHERE first_seq = ?;

-- The record that holds the sequence number, and those after it.
-- name: since
SELECT first_seq, count, items FROM events
WHERE first_seq >= coalesce((SELECT max(first_seq) FROM events WHERE first_seq <= ?), 0)
ORDER BY first_seq LIMIT ?;

-- name: prune
DELETE FROM events WHERE first_seq IN
    (SELECT first_seq FROM events WHERE at_ms < ? OR first_seq < ? ORDER BY first_seq LIMIT ?);

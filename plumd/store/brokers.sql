-- name: put
INSERT OR REPLACE INTO brokers (name, version, body, password, updated_ms) VALUES (?,?,?,?,?);

-- name: get
SELECT name, version, body, password, updated_ms FROM brokers WHERE name = ?;

-- Few, and read whole when one was written.
-- name: all
SELECT name, version, body, password, updated_ms FROM brokers ORDER BY name;

-- name: delete
DELETE FROM brokers WHERE name = ?;

-- name: forget
DELETE FROM broker_messages WHERE broker = ?;

-- name: seen
SELECT digest, event_id FROM broker_messages WHERE broker = ? AND pid = ?;

-- name: see
INSERT OR REPLACE INTO broker_messages (broker, pid, digest, event_id) VALUES (?,?,?,?);

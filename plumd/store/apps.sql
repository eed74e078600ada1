-- name: insert
INSERT INTO apps (id, name, version, file, sha256, size_bytes, ports, created_ms)
VALUES (?,?,?,?,?,?,?,?);

-- name: get
SELECT id, name, version, file, sha256, size_bytes, ports, created_ms FROM apps WHERE id = ?;

-- name: by_file
SELECT id, name, version, file, sha256, size_bytes, ports, created_ms FROM apps WHERE file = ?;

-- name: by_name
SELECT id, name, version, file, sha256, size_bytes, ports, created_ms FROM apps
WHERE name = ? AND id < ? ORDER BY id DESC LIMIT ?;

-- name: exact
SELECT id, name, version, file, sha256, size_bytes, ports, created_ms FROM apps
WHERE name = ? AND version = ?;

-- name: page
SELECT id, name, version, file, sha256, size_bytes, ports, created_ms FROM apps
WHERE id < ? ORDER BY id DESC LIMIT ?;

-- name: files
SELECT file FROM apps;

-- name: delete
DELETE FROM apps WHERE id = ?;

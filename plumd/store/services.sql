-- name: upsert
INSERT INTO endpoints (service_name, instance_id, ip, port, protocol, node_id, version, labels)
VALUES (?,?,?,?,?,?,?,?)
ON CONFLICT (service_name, instance_id, ip, port, protocol) DO UPDATE SET
    node_id = excluded.node_id, version = excluded.version, labels = excluded.labels;

-- name: delete
DELETE FROM endpoints
WHERE service_name = ? AND instance_id = ? AND ip = ? AND port = ? AND protocol = ?;

-- name: all
SELECT service_name, instance_id, ip, port, protocol, node_id, version, labels FROM endpoints
ORDER BY service_name, instance_id, ip, port, protocol;

-- name: of_instance
SELECT service_name, instance_id, ip, port, protocol, node_id, version, labels FROM endpoints
WHERE instance_id = ? ORDER BY service_name, ip, port, protocol;

-- name: count
SELECT count(*) FROM endpoints;

-- name: policies
SELECT service, body FROM service_policies;

-- name: policy
SELECT body FROM service_policies WHERE service = ?;

-- 0 = nobody said it.
-- name: policy_version
SELECT coalesce((SELECT version FROM service_policies WHERE service = ?), 0);

-- name: policy_count
SELECT count(*) FROM service_policies;

-- name: set_policy
INSERT INTO service_policies (service, body) VALUES (?,?)
ON CONFLICT (service) DO UPDATE SET body = excluded.body, version = version + 1;

-- name: delete_policy
DELETE FROM service_policies WHERE service = ?;

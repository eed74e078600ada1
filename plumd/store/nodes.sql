-- name: upsert
INSERT INTO nodes (id, ip, labels, own_labels, facts, key_hash, agent_version, boot_id, draining,
                   instances_max, lost_ms, shaky_ms, created_ms, seen_ms)
VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)
ON CONFLICT (id) DO UPDATE SET
    ip = excluded.ip, labels = excluded.labels, own_labels = excluded.own_labels,
    facts = excluded.facts, key_hash = excluded.key_hash, agent_version = excluded.agent_version,
    boot_id = excluded.boot_id, draining = excluded.draining,
    instances_max = excluded.instances_max, lost_ms = excluded.lost_ms,
    shaky_ms = excluded.shaky_ms, seen_ms = excluded.seen_ms;

-- name: all
SELECT id, ip, labels, own_labels, facts, key_hash, agent_version, boot_id, draining,
       instances_max, lost_ms, shaky_ms, created_ms, seen_ms FROM nodes ORDER BY id;

-- name: get
SELECT id, ip, labels, own_labels, facts, key_hash, agent_version, boot_id, draining,
       instances_max, lost_ms, shaky_ms, created_ms, seen_ms FROM nodes WHERE id = ?;

-- name: delete
DELETE FROM nodes WHERE id = ?;

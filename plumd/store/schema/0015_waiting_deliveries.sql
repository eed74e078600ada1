-- What waits for a receiver is bounded: the oldest of it is found, and counted when it is given up.

ALTER TABLE webhooks ADD COLUMN dropped INTEGER NOT NULL DEFAULT 0;

CREATE INDEX deliveries_waiting ON deliveries (webhook_id, seq) WHERE state = 0;

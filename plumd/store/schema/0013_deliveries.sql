-- Which delivery of a webhook ended last: of those that fail in a row the first is told.

CREATE INDEX deliveries_ended ON deliveries (webhook_id, ended_ms, seq) WHERE state > 0;

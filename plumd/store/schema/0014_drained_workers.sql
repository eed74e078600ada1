-- Workers that somebody let take nothing new: so it stays, whoever is started anew.

ALTER TABLE workers ADD COLUMN drained INTEGER NOT NULL DEFAULT 0;

CREATE INDEX workers_drained ON workers (id) WHERE drained;

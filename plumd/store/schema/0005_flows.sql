-- Runs of graphs: what a step instance's task does not say, and how runs belong together.

ALTER TABLE workflow_runs ADD COLUMN parent_id INTEGER NOT NULL DEFAULT 0;   -- whose sub-workflow
ALTER TABLE workflow_runs ADD COLUMN parent_step INTEGER NOT NULL DEFAULT -1;
ALTER TABLE workflow_runs ADD COLUMN depth INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workflow_runs ADD COLUMN origin_id INTEGER NOT NULL DEFAULT 0;   -- the run it repeats
ALTER TABLE workflow_runs ADD COLUMN paused_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workflow_runs ADD COLUMN stop INTEGER NOT NULL DEFAULT -1;       -- the state it ends in
ALTER TABLE workflow_runs ADD COLUMN result BLOB;                            -- JSON
ALTER TABLE workflow_runs ADD COLUMN error TEXT;                             -- JSON: code, message
CREATE INDEX workflow_runs_by_parent ON workflow_runs (parent_id) WHERE parent_id > 0;
CREATE INDEX workflow_runs_paused ON workflow_runs (id) WHERE paused_ms > 0;

CREATE TABLE run_steps (
    run_id      INTEGER NOT NULL,
    step        INTEGER NOT NULL,                   -- the instance's number in the run
    state       INTEGER NOT NULL CHECK (state BETWEEN -1 AND 9),
    ref         INTEGER NOT NULL,                   -- its task, or the run of a sub-workflow; 0
    started_ms  INTEGER NOT NULL,
    finished_ms INTEGER NOT NULL,
    data        BLOB,                               -- JSON: values, outcome, error, iterations
    PRIMARY KEY (run_id, step)
) STRICT, WITHOUT ROWID;

CREATE INDEX tasks_by_step ON tasks (run_id, step) WHERE run_id > 0;

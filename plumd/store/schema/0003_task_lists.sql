-- States are looked for among live tasks and among those that ended badly. Those that succeeded are
-- most of the rest: the key finds them, and their transitions no longer move entries of an index.

DROP INDEX tasks_by_state;
CREATE INDEX tasks_live ON tasks (state) WHERE state < 4;
CREATE INDEX tasks_unwell ON tasks (state) WHERE state > 4;

-- How service tasks call a service, where somebody said it.

CREATE TABLE service_policies (
    service TEXT PRIMARY KEY,
    body    TEXT NOT NULL                           -- JSON object
) STRICT, WITHOUT ROWID;

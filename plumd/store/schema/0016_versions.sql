-- Of two who change a rule of alarms, or how a service is called, at once none undoes what the other did.

ALTER TABLE alarm_rules ADD COLUMN version INTEGER NOT NULL DEFAULT 1;

ALTER TABLE service_policies ADD COLUMN version INTEGER NOT NULL DEFAULT 1;

-- Requests of one application that come at once are queued one after the other: each is created when it gets its turn,
-- not when its transaction began, so that the newest is the one that is not superseded.
ALTER TABLE deployments ALTER COLUMN created_at SET DEFAULT clock_timestamp();

-- What was seen of an application on its engine, apart from how its last deployment ended.

CREATE TYPE observed AS ENUM (
    'running',     -- it runs, and has no health check, or its check has not said anything yet
    'healthy',
    'unhealthy',
    'restarting',  -- it ends again and again
    'stopped',
    'missing',     -- its container or service is gone
    'drifted'      -- what is there is not what its last deployment brought
);

-- Written by a gateway that reaches the engine.
CREATE TABLE observations (
    application_id text PRIMARY KEY REFERENCES applications ON DELETE CASCADE,
    state          observed NOT NULL,
    detail         text NOT NULL DEFAULT '',
    since          timestamptz NOT NULL DEFAULT now(),  -- it has been in this state
    observed_at    timestamptz NOT NULL DEFAULT now(),
    told           observed,     -- the state people were told of; null: none since it was well for a while
    healed_at      timestamptz   -- when it was last put right
);

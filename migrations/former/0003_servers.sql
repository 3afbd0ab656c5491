-- Engines beyond the gateway's own.

-- A host whose engine the gateway reaches. Two of them may lead to one daemon: `engine_id` tells, once it has answered.
CREATE TABLE servers (
    server_id   text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    name        text NOT NULL UNIQUE CHECK (name <> ''),
    description text NOT NULL DEFAULT '',
    host        text NOT NULL,      -- unix:///path, tcp://host:port, ssh://user@host:port
    credentials bytea,              -- sealed: what the engine knows us by, and we it
    engine_id   text REFERENCES engines,
    error       text,               -- why it did not answer when it was last asked
    created_at  timestamptz NOT NULL DEFAULT now(),
    changed_at  timestamptz NOT NULL DEFAULT now()
);

-- Where an application is deployed first; null is the gateway's own engine.
ALTER TABLE applications ADD COLUMN server_id text REFERENCES servers;

CREATE INDEX applications_by_server ON applications (server_id);

-- Whether it takes services, as the manager of a Swarm.
ALTER TABLE engines ADD COLUMN swarm_manager boolean NOT NULL DEFAULT false;

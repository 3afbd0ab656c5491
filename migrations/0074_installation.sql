-- Several gateways, each with a database of its own, may work on one engine. What one of them makes there bears the id of
-- its database, so that no other takes it for its own.
CREATE TABLE installation (
    only_one        boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    installation_id text NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    created_at      timestamptz NOT NULL DEFAULT now()
);

INSERT INTO installation DEFAULT VALUES;

-- Whether all that its attempts made bears that id. What was made before, or by a gateway of an earlier version, is
-- recognised by the deployment it names.
ALTER TABLE deployments ADD COLUMN marked boolean NOT NULL DEFAULT false;

CREATE INDEX deployments_unmarked ON deployments (application_id) WHERE NOT marked;

-- Several gateways, each with a database of its own, may work on one engine. What one of them makes there bears the id of
-- its database, so that no other takes it for its own.
CREATE TABLE installation (
    only_one        boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    installation_id text NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    created_at      timestamptz NOT NULL DEFAULT now()
);

INSERT INTO installation DEFAULT VALUES;

-- The epoch up to which whoever claimed it marked with that id what it made. Where it lags behind `epoch`, a gateway of an
-- earlier version has had it, and what it made is recognised by the deployment it names.
ALTER TABLE deployments ADD COLUMN marked_to bigint NOT NULL DEFAULT 0;

CREATE INDEX deployments_unmarked ON deployments (application_id) WHERE marked_to <> epoch;

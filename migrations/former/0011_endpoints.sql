-- Endpoints: whose pushes they may tell of, from where and how fast, and the secret before the newest.

ALTER TABLE endpoints
    ADD COLUMN enabled           boolean NOT NULL DEFAULT true,
    ADD COLUMN repositories      text[] NOT NULL DEFAULT '{}',  -- globs; empty: any
    ADD COLUMN networks          cidr[] NOT NULL DEFAULT '{}',  -- of senders; empty: any
    ADD COLUMN rate              integer CHECK (rate > 0),      -- requests a minute; null: the setting's
    -- Valid beside the newest until then.
    ADD COLUMN former_token_hash bytea UNIQUE,
    ADD COLUMN former_secret     bytea,                         -- sealed
    ADD COLUMN former_until      timestamptz,
    ADD CHECK (former_until IS NOT NULL OR (former_token_hash IS NULL AND former_secret IS NULL));

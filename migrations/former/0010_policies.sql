-- Applications follow tags by policy, and several at once.

CREATE TYPE rule AS ENUM (
    'exact',   -- one tag
    'semver',  -- a range of versions
    'glob',
    'regex',
    'any'
);

ALTER TABLE subscriptions
    DROP CONSTRAINT subscriptions_application_id_repository_tag_key,
    -- `tag` is empty where a rule decides: a push finds both kinds by (repository, tag) and ('' for the rule).
    ADD COLUMN rule        rule NOT NULL DEFAULT 'exact',
    ADD COLUMN pattern     text NOT NULL DEFAULT '',
    ADD COLUMN include     text[] NOT NULL DEFAULT '{}',
    ADD COLUMN exclude     text[] NOT NULL DEFAULT '{}',
    ADD COLUMN prereleases boolean NOT NULL DEFAULT false,
    ADD COLUMN downgrades  boolean NOT NULL DEFAULT false,
    ADD COLUMN from_image  boolean NOT NULL DEFAULT false,  -- made from the application's image, and moves with it
    ADD COLUMN created_at  timestamptz NOT NULL DEFAULT now(),
    ADD CHECK ((rule = 'exact') = (tag <> '')),
    ADD CHECK (NOT from_image OR rule = 'exact');

UPDATE subscriptions SET pattern = tag, from_image = true;

CREATE UNIQUE INDEX subscriptions_from_image ON subscriptions (application_id) WHERE from_image;
CREATE UNIQUE INDEX subscriptions_once ON subscriptions (application_id, repository, rule, pattern)
    WHERE NOT from_image;

-- A key may be taken before its delivery is written down: both are there when the transaction ends.
ALTER TABLE delivery_keys
    ALTER CONSTRAINT delivery_keys_delivery_id_fkey DEFERRABLE INITIALLY DEFERRED;

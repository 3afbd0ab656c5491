-- The gateway's memory. The laws of deploying stand here as constraints.

-- An engine is known by the daemon's own id, so that two addresses of one daemon are one engine.
CREATE TABLE engines (
    engine_id    text PRIMARY KEY,
    name         text NOT NULL,
    version      text NOT NULL,
    platform     text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now()
);

-- Logins. `domain` and `path` are what image names are matched by, the longest path first.
CREATE TABLE registries (
    registry_id   text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    registry_name text NOT NULL,
    registry_url  text NOT NULL,
    registry_type text NOT NULL,
    image_prefix  text,
    domain        text NOT NULL,
    path          text NOT NULL DEFAULT '',
    username      text NOT NULL,
    password      bytea NOT NULL,  -- sealed
    created_at    timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX registries_by_domain ON registries (domain);

CREATE TYPE desired AS ENUM (
    'running',
    'stopped',  -- pushes are ignored
    'deleted'   -- gone for everyone but the deployment that removes its containers
);

CREATE TABLE applications (
    application_id    text PRIMARY KEY DEFAULT gen_random_uuid()::text
                      CHECK (application_id ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$'),
    name              text NOT NULL CHECK (name <> ''),
    -- What the container is called; it reaches the engine's paths, so it is held to a name here too.
    app_name          text NOT NULL UNIQUE CHECK (app_name ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'),
    description       text,
    docker_image      text,
    registry_url      text,
    registry_username text,
    registry_password bytea,           -- sealed
    environment       bytea,           -- sealed: dotenv text
    configuration     jsonb NOT NULL DEFAULT '{}',
    other_columns     jsonb NOT NULL DEFAULT '{}',  -- of the API; kept and returned, of no meaning for an image
    auto_deploy       boolean NOT NULL DEFAULT true,
    desired           desired NOT NULL DEFAULT 'running',
    engine_id         text REFERENCES engines,      -- bound at the first deployment
    created_at        timestamptz NOT NULL DEFAULT now()
);

-- Which pushes an application follows.
CREATE TABLE subscriptions (
    subscription_id text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    application_id  text NOT NULL REFERENCES applications ON DELETE CASCADE,
    repository      text NOT NULL,  -- canonical: docker.io/library/nginx
    tag             text NOT NULL,
    UNIQUE (application_id, repository, tag)
);

CREATE INDEX subscriptions_by_repository ON subscriptions (repository, tag);

-- Where a registry may tell us of pushes. The token in the path is kept as a hash.
CREATE TABLE endpoints (
    endpoint_id text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    source      text NOT NULL,
    name        text NOT NULL,
    token_hash  bytea NOT NULL UNIQUE,
    secret      bytea NOT NULL,  -- sealed
    host        text,
    aliases     text[] NOT NULL DEFAULT '{}',
    settings    jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TYPE verdict AS ENUM (
    'queued',     -- it queued or joined at least one deployment
    'ignored',    -- it is understood and deploys nothing; `ignored` says why
    'duplicate',  -- of `duplicate_of`
    'rejected'    -- proven, but not understood
);

-- The inbox.
CREATE TABLE deliveries (
    delivery_id  text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    endpoint_id  text REFERENCES endpoints ON DELETE SET NULL,
    source       text NOT NULL,
    received_at  timestamptz NOT NULL DEFAULT now(),
    body         bytea NOT NULL,
    verdict      verdict NOT NULL,
    ignored      jsonb NOT NULL DEFAULT '[]',
    duplicate_of text REFERENCES deliveries ON DELETE SET NULL,
    CHECK (duplicate_of IS NULL OR verdict = 'duplicate')
);

CREATE INDEX deliveries_by_age ON deliveries (received_at);

-- What makes two deliveries one: the event's id in the signed body, else the body's hash for a while.
CREATE TABLE delivery_keys (
    endpoint_id text NOT NULL REFERENCES endpoints ON DELETE CASCADE,
    key         text NOT NULL,
    delivery_id text NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    seen_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (endpoint_id, key)
);

CREATE INDEX delivery_keys_by_delivery ON delivery_keys (delivery_id);

CREATE TYPE kind AS ENUM (
    'deploy',    -- a push, or a person who wants the image as it is now; may end unchanged
    'redeploy',  -- a person who wants the container replaced
    'start',
    'stop',
    'delete'
);

CREATE TYPE status AS ENUM (
    'queued',
    'running',
    'succeeded',
    'unchanged',    -- what runs already is what was asked for
    'failed',       -- the old one was never touched
    'rolled_back',  -- the old one was put back
    'superseded',   -- by a newer one while queued
    'cancelled'
);

CREATE TABLE deployments (
    deployment_id   text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    application_id  text NOT NULL REFERENCES applications ON DELETE CASCADE,
    kind            kind NOT NULL,
    forced          boolean NOT NULL,  -- a person asked
    status          status NOT NULL DEFAULT 'queued',
    title           text NOT NULL,
    description     text NOT NULL DEFAULT '',
    reference       text,              -- the image's name as of the moment it was asked for
    expected_digest text,              -- what the newest push named
    digest          text,              -- what the registry answered
    attempts        integer NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    requested_at    timestamptz NOT NULL DEFAULT now(),  -- the newest request it answers
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    replaced        boolean NOT NULL DEFAULT false,      -- a container was put in another's place
    spec_hash       text,
    reason_code     text,
    reason_message  text,
    log             text NOT NULL DEFAULT '',            -- the failing container's last lines
    superseded_by   text REFERENCES deployments ON DELETE SET NULL,
    -- The lease. Each claim raises the epoch, and a stale owner's next record is refused by it.
    epoch           bigint NOT NULL DEFAULT 0,
    claimed_by      text,
    lease_length    interval NOT NULL DEFAULT '15 seconds',
    lease_until     timestamptz,
    CHECK ((finished_at IS NULL) = (status IN ('queued', 'running'))),
    CHECK ((lease_until IS NULL) = (status <> 'running')),
    CHECK (kind NOT IN ('deploy', 'redeploy') OR reference IS NOT NULL),
    CHECK (superseded_by IS NULL OR status = 'superseded')
);

-- At most one deployment of an application waits, and at most one runs.
CREATE UNIQUE INDEX deployments_one_queued ON deployments (application_id) WHERE status = 'queued';
CREATE UNIQUE INDEX deployments_one_running ON deployments (application_id) WHERE status = 'running';
CREATE INDEX deployments_queue ON deployments (next_attempt_at) WHERE status = 'queued';
CREATE INDEX deployments_of_application ON deployments (application_id, created_at DESC);

-- What each delivery caused: one deployment may answer many.
CREATE TABLE deployment_deliveries (
    deployment_id text NOT NULL REFERENCES deployments ON DELETE CASCADE,
    delivery_id   text NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    PRIMARY KEY (delivery_id, deployment_id)
);

CREATE INDEX deployment_deliveries_by_deployment ON deployment_deliveries (deployment_id);

-- The journal: each step is written down before it is done.
CREATE TABLE steps (
    deployment_id text NOT NULL REFERENCES deployments ON DELETE CASCADE,
    epoch         bigint NOT NULL,
    number        integer NOT NULL,
    step          text NOT NULL,
    detail        text NOT NULL DEFAULT '',
    started_at    timestamptz NOT NULL,
    finished_at   timestamptz,
    PRIMARY KEY (deployment_id, epoch, number)
);

CREATE TYPE direction AS ENUM ('forward', 'back');

-- The one record of a swap under way: at most one an application. While it stands, `old` and `new` both exist;
-- whoever claims the application next finishes it or puts `old` back.
CREATE TABLE swaps (
    application_id     text PRIMARY KEY REFERENCES applications ON DELETE CASCADE,
    deployment_id      text NOT NULL REFERENCES deployments ON DELETE CASCADE,
    serving_name       text NOT NULL,
    old                text,    -- a container's id; null at the first deployment
    old_restart_policy jsonb,
    new                text NOT NULL,
    direction          direction NOT NULL DEFAULT 'forward',
    reason_code        text,    -- why back
    reason_message     text,
    log                text NOT NULL DEFAULT '',
    opened_at          timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    key_id       text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    name         text NOT NULL,
    prefix       text NOT NULL,
    key_hash     bytea NOT NULL UNIQUE,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    revoked_at   timestamptz
);

-- The whole schema. Tables are ordered by noun, each with the types, indexes and triggers that belong to it.
--
-- The database holds the rules that no code may break: a CHECK for what one row may say, a partial unique index for
-- what may exist once, a foreign key for what depends on what. "Encrypted" columns hold AES-GCM ciphertext that opens
-- with the master key, in that row and column alone. Identifiers are text, and random unless the caller chose one.
--
-- A later change is a file of its own with the next number. See docs/upgrade.md for what it may do.

-- == The installation

-- Several gateways, each with a database of its own, may use one engine. The objects that one of them creates there
-- carry the id of its database as a label, so that no other gateway takes them for its own.
CREATE TABLE installation (
    only_one        boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    installation_id text NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', ''),
    created_at      timestamptz NOT NULL DEFAULT now()
);

INSERT INTO installation DEFAULT VALUES;

-- The address of the running server. Commands in another shell read it from here.
CREATE TABLE serving (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    public_url text,           -- null: GATEWAY_PUBLIC_URL is not set
    listens    text NOT NULL,  -- http://host:port
    since      timestamptz NOT NULL DEFAULT now()
);

-- Readiness is checked by a write that is rolled back. PLAIN storage makes each row fill a page, so that a full disk
-- fails the write.
CREATE TABLE readiness_probes (
    filler bytea NOT NULL
);
ALTER TABLE readiness_probes ALTER COLUMN filler SET STORAGE PLAIN;

-- == Engines and servers

-- A Docker Engine, identified by the daemon's own id: two addresses of one daemon are one engine. Applications are
-- bound to these rows.
CREATE TABLE engines (
    engine_id     text PRIMARY KEY,
    name          text NOT NULL,
    version       text NOT NULL,
    platform      text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    swarm_manager boolean NOT NULL DEFAULT false  -- whether it accepts services
);

-- A registered remote machine with an engine. Two servers may lead to one daemon: `engine_id` is set by its first
-- response.
CREATE TABLE servers (
    server_id   text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    name        text NOT NULL UNIQUE CHECK (name <> ''),
    description text NOT NULL DEFAULT '',
    host        text NOT NULL,  -- unix:///path, tcp://host:port, ssh://user@host:port
    credentials bytea,          -- encrypted: certificates or keys for the connection
    engine_id   text REFERENCES engines,
    error       text,           -- why the last connection failed
    created_at  timestamptz NOT NULL DEFAULT now(),
    changed_at  timestamptz NOT NULL DEFAULT now()
);

-- An engine at a server. Two engines may have the same id (machines cloned from one disk), so the state that differs
-- between them is stored for each address.
CREATE TABLE engine_addresses (
    engine_id     text NOT NULL REFERENCES engines ON DELETE CASCADE,
    server_id     text REFERENCES servers ON DELETE CASCADE,  -- null: the gateway's own engine
    daemon        text NOT NULL,                              -- equal at two addresses of one daemon
    swarm_manager boolean NOT NULL,
    last_seen_at  timestamptz NOT NULL DEFAULT now()
);

CREATE UNIQUE INDEX engine_addresses_once ON engine_addresses (engine_id, coalesce(server_id, ''));
CREATE INDEX engine_addresses_of_server ON engine_addresses (server_id);

-- == Registries

-- Credentials. An image uses the row whose `domain` and `path` match its name; the longest path wins.
CREATE TABLE registries (
    registry_id   text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    registry_name text NOT NULL,
    registry_url  text NOT NULL,
    registry_type text NOT NULL,
    image_prefix  text,
    domain        text NOT NULL,
    path          text NOT NULL DEFAULT '',
    username      text NOT NULL,
    password      bytea NOT NULL,  -- encrypted
    authority     text,            -- PEM certificates, trusted for this registry besides the system's
    amazon        jsonb,           -- how to get tokens of Amazon ECR; username and password are the access keys then
    created_at    timestamptz NOT NULL DEFAULT now(),
    CHECK ((registry_type = 'ecr') = (amazon IS NOT NULL))
);

CREATE INDEX registries_by_domain ON registries (domain);

-- == Projects and environments

CREATE TABLE projects (
    project_id  text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    name        text NOT NULL CHECK (name <> ''),
    description text,
    variables   bytea,  -- encrypted: dotenv text
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE environments (
    environment_id text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    project_id     text NOT NULL REFERENCES projects ON DELETE CASCADE,
    name           text NOT NULL CHECK (name <> ''),
    description    text,
    variables      bytea,                           -- encrypted: dotenv text
    is_default     boolean NOT NULL DEFAULT false,  -- created with its project, and deleted with it
    created_at     timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX environments_of_project ON environments (project_id);
-- A project has at most one default environment.
CREATE UNIQUE INDEX environments_one_default ON environments (project_id) WHERE is_default;

-- == Applications

CREATE TYPE desired AS ENUM (
    'running',
    'stopped',  -- pushes are ignored
    'deleted'   -- hidden; the row stays until a deployment has removed the containers
);

CREATE TABLE applications (
    application_id    text PRIMARY KEY DEFAULT gen_random_uuid()::text
                      CHECK (application_id ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$'),
    name              text NOT NULL CHECK (name <> ''),
    -- The container's name. It becomes part of paths of the Engine API, so its characters are limited here too. The
    -- name of an adopted container is kept, hence all that the engine allows.
    app_name          text NOT NULL CHECK (app_name ~ '^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$'),
    description       text,
    -- Deleting an environment never deletes its applications; only an application that is being deleted has none.
    environment_id    text REFERENCES environments,
    server_id         text REFERENCES servers,      -- where it is deployed first; null: the gateway's own engine
    engine_id         text REFERENCES engines,      -- bound at the first deployment
    desired           desired NOT NULL DEFAULT 'running',
    docker_image      text,
    auto_deploy       boolean NOT NULL DEFAULT true,
    reconcile         integer CHECK (reconcile >= 0),  -- poll interval, seconds; 0: never; null: as its registry
    registry_url      text,
    registry_username text,
    registry_password bytea,                        -- encrypted
    password_for      text,                         -- the registry this password was given for: no other receives it
    environment       bytea,                        -- encrypted: dotenv text
    configuration     jsonb NOT NULL DEFAULT '{}',  -- ports, mounts, limits and the like
    files             bytea,                        -- encrypted: contents of the mounted files, by mount path
    base              bytea,                        -- encrypted: the container it was adopted from
    other_columns     jsonb NOT NULL DEFAULT '{}',  -- API fields without a meaning for images
    other_secrets     bytea,                        -- encrypted: those of `other_columns` that may be secret
    created_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT applications_belong CHECK (environment_id IS NOT NULL OR desired = 'deleted')
);

-- A container's name is unique on its server; two servers may each have a `web`.
CREATE UNIQUE INDEX applications_app_name_on_host ON applications (app_name, coalesce(server_id, ''));
CREATE INDEX applications_by_server ON applications (server_id);
CREATE INDEX applications_of_environment ON applications (environment_id);
CREATE INDEX applications_newest ON applications (created_at DESC, application_id DESC);
CREATE INDEX applications_reconciled ON applications (application_id) WHERE reconcile IS NOT NULL;
-- Finds a port or a mount by its id.
CREATE INDEX applications_by_parts ON applications USING gin (configuration jsonb_path_ops);

-- The addresses at which a reverse proxy publishes an application. Stored for API clients: the gateway routes nothing.
CREATE TABLE domains (
    domain_id      text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    number         bigint NOT NULL GENERATED ALWAYS AS IDENTITY,  -- the API has one beside the id
    application_id text NOT NULL REFERENCES applications ON DELETE CASCADE,
    host           text NOT NULL,
    columns        jsonb NOT NULL,  -- the other fields of the API
    created_at     timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX domains_of_application ON domains (application_id);

-- The state of an application as observed on its engine, apart from the outcome of its last deployment.
CREATE TYPE observed AS ENUM (
    'running',     -- without a health check, or before its first result
    'healthy',
    'unhealthy',
    'restarting',  -- it exits again and again
    'stopped',
    'missing',     -- its container or service does not exist
    'drifted'      -- what exists is not what the last deployment created
);

CREATE TABLE observations (
    application_id text PRIMARY KEY REFERENCES applications ON DELETE CASCADE,
    state          observed NOT NULL,
    detail         text NOT NULL DEFAULT '',
    since          timestamptz NOT NULL DEFAULT now(),  -- when it entered this state
    observed_at    timestamptz NOT NULL DEFAULT now(),
    told           observed,     -- the state of the last alert; null: none since it was well
    healed_at      timestamptz   -- when the gateway last repaired it
);

-- == Subscriptions and polling

CREATE TYPE rule AS ENUM (
    'exact',   -- one tag
    'semver',  -- a range of versions
    'glob',
    'regex',
    'any'
);

-- Which pushes deploy an application. A push is matched by (repository, tag) for exact rules and (repository, '') for
-- the others, so `tag` is set for exact rules alone.
CREATE TABLE subscriptions (
    subscription_id text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    application_id  text NOT NULL REFERENCES applications ON DELETE CASCADE,
    repository      text NOT NULL,  -- canonical: docker.io/library/nginx
    tag             text NOT NULL,
    rule            rule NOT NULL DEFAULT 'exact',
    pattern         text NOT NULL DEFAULT '',
    include         text[] NOT NULL DEFAULT '{}',
    exclude         text[] NOT NULL DEFAULT '{}',
    prereleases     boolean NOT NULL DEFAULT false,
    downgrades      boolean NOT NULL DEFAULT false,
    from_image      boolean NOT NULL DEFAULT false,  -- created for the application's image, and changes with it
    created_at      timestamptz NOT NULL DEFAULT now(),
    CHECK ((rule = 'exact') = (tag <> '')),
    CHECK (NOT from_image OR rule = 'exact')
);

CREATE INDEX subscriptions_by_repository ON subscriptions (repository, tag);
-- For a push without a match: names the subscriptions to the same path at another host, often a webhook that does not
-- know its registry's own host.
CREATE INDEX subscriptions_by_path ON subscriptions (substr(repository, strpos(repository, '/') + 1));
-- At most one subscription for the application's image; another one of the same pattern exists once.
CREATE UNIQUE INDEX subscriptions_from_image ON subscriptions (application_id) WHERE from_image;
CREATE UNIQUE INDEX subscriptions_once ON subscriptions (application_id, repository, rule, pattern)
    WHERE NOT from_image;

-- What the poller asks registries for: one tag, or the list of tags where `tag` is ''.
CREATE TABLE looks (
    repository text NOT NULL,
    tag        text NOT NULL,
    domain     text NOT NULL,
    seconds    integer NOT NULL CHECK (seconds > 0),  -- the interval
    next_at    timestamptz NOT NULL,
    -- The last response.
    looked_at  timestamptz,
    digest     text,
    etag       text,
    PRIMARY KEY (repository, tag)
);

CREATE INDEX looks_due ON looks (domain, next_at);

-- == Endpoints and deliveries

-- A webhook's address. Tokens in its path are stored as hashes. An application's deploy token has a row too: it is
-- shown again, so it is stored encrypted as the secret.
CREATE TABLE endpoints (
    endpoint_id       text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    source            text NOT NULL,
    name              text NOT NULL,
    token_hash        bytea NOT NULL UNIQUE,
    secret            bytea NOT NULL,  -- encrypted
    host              text,            -- the registry's public host, where its events do not name it
    aliases           text[] NOT NULL DEFAULT '{}',
    settings          jsonb NOT NULL DEFAULT '{}',
    enabled           boolean NOT NULL DEFAULT true,
    repositories      text[] NOT NULL DEFAULT '{}',  -- accepted repositories, as globs; empty: any
    networks          cidr[] NOT NULL DEFAULT '{}',  -- accepted senders; empty: any
    rate              integer CHECK (rate > 0),      -- requests a minute; null: the setting
    -- After a rotation the former token and secret stay valid until then.
    former_token_hash bytea UNIQUE,
    former_secret     bytea,                         -- encrypted
    former_until      timestamptz,
    application_id    text UNIQUE REFERENCES applications ON DELETE CASCADE,  -- set for a deploy token
    created_at        timestamptz NOT NULL DEFAULT now(),
    CHECK (former_until IS NOT NULL OR (former_token_hash IS NULL AND former_secret IS NULL)),
    CHECK ((source = 'deploy') = (application_id IS NOT NULL))
);

CREATE TYPE verdict AS ENUM (
    'queued',     -- it queued or joined at least one deployment
    'ignored',    -- understood, and deploys nothing; `ignored` has the reasons
    'duplicate',  -- of `duplicate_of`
    'rejected'    -- authenticated, but not understood; with `refusal`: not authenticated
);

-- The deployment's type is defined here: deliveries remember how their deployments ended.
CREATE TYPE status AS ENUM (
    'queued',
    'running',
    'succeeded',
    'unchanged',    -- the wanted version ran already
    'failed',       -- the old version was never touched
    'rolled_back',  -- the old version was put back
    'superseded',   -- by a newer deployment, while queued
    'cancelled'
);

-- The inbox: each request to a webhook, as received.
CREATE TABLE deliveries (
    delivery_id  text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    endpoint_id  text REFERENCES endpoints ON DELETE SET NULL,
    source       text NOT NULL,
    received_at  timestamptz NOT NULL DEFAULT now(),
    headers      jsonb NOT NULL DEFAULT '{}',  -- without secrets
    body         bytea NOT NULL,
    verdict      verdict NOT NULL,
    ignored      jsonb NOT NULL DEFAULT '[]',
    duplicate_of text REFERENCES deliveries ON DELETE SET NULL,
    replay_of    text REFERENCES deliveries ON DELETE SET NULL,
    -- Requests that fail authentication are counted, not stored: one row for an endpoint, a reason and an hour.
    refusal      text,
    hour         timestamptz,
    times        bigint NOT NULL DEFAULT 1,
    -- How deployments ended that this delivery caused and that were deleted since. Its verdict stays as it was, and a
    -- duplicate of it starts nothing.
    ended        status[] NOT NULL DEFAULT '{}',
    CHECK (duplicate_of IS NULL OR verdict = 'duplicate'),
    CHECK ((refusal IS NULL) = (hour IS NULL)),
    CHECK (refusal IS NULL OR verdict = 'rejected')
);

CREATE UNIQUE INDEX deliveries_refused ON deliveries (endpoint_id, refusal, hour);
-- Each list of the inbox is read page by page from one of these.
CREATE INDEX deliveries_newest ON deliveries (received_at DESC, delivery_id DESC);
CREATE INDEX deliveries_of_endpoint ON deliveries (endpoint_id, verdict, received_at DESC, delivery_id DESC);
CREATE INDEX deliveries_of_source ON deliveries (source, verdict, received_at DESC, delivery_id DESC);
CREATE INDEX deliveries_of_verdict ON deliveries (verdict, received_at DESC, delivery_id DESC);
CREATE INDEX deliveries_duplicate_of ON deliveries (duplicate_of) WHERE duplicate_of IS NOT NULL;
CREATE INDEX deliveries_replay_of ON deliveries (replay_of) WHERE replay_of IS NOT NULL;

-- Two deliveries with one key are duplicates: the event's id from the signed body, else the body's hash for a while.
-- A key may be inserted before its delivery: the reference is checked at the end of the transaction.
CREATE TABLE delivery_keys (
    endpoint_id text NOT NULL REFERENCES endpoints ON DELETE CASCADE,
    key         text NOT NULL,
    delivery_id text NOT NULL REFERENCES deliveries ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    seen_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (endpoint_id, key)
);

CREATE INDEX delivery_keys_by_delivery ON delivery_keys (delivery_id);

-- The size of the inbox, for each ten minutes of it: measured in pieces, never as a whole.
CREATE TABLE inbox_spans (
    begins      timestamptz PRIMARY KEY,
    bytes       bigint NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX inbox_spans_measured ON inbox_spans (measured_at);

-- == Deployments

CREATE TYPE kind AS ENUM (
    'deploy',    -- a push, or a person who wants the current image; may end unchanged
    'redeploy',  -- a person who wants the container replaced
    'start',
    'stop',
    'delete',
    'rollback'   -- back to a version that ran before
);

-- One request to bring an image into service, and the queue: a worker claims a queued row, and the row records the
-- outcome.
CREATE TABLE deployments (
    deployment_id      text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    application_id     text NOT NULL REFERENCES applications ON DELETE CASCADE,
    kind               kind NOT NULL,
    status             status NOT NULL DEFAULT 'queued',
    title              text NOT NULL,
    description        text NOT NULL DEFAULT '',
    -- What was requested.
    forced             boolean NOT NULL,  -- a person requested it
    asked_by           text DEFAULT nullif(current_setting('gateway.actor', true), '')::jsonb ->> 'who',
                                          -- null: a webhook, or the gateway itself
    asked_key          text DEFAULT nullif(current_setting('gateway.actor', true), '')::jsonb ->> 'key_id',
                                          -- the API key's id; outlives the key
    reference          text,              -- the image's name at the time of the request
    expected_digest    text,              -- from the newest push
    -- The image named in the request, as written. It becomes the application's once this succeeds, so that a mistyped
    -- tag changes nothing. Null: none was named, or a person named another one since.
    image              text,
    moves_subscription boolean NOT NULL DEFAULT false,  -- whether the image's subscription changes with it
    rolls_back_to      text REFERENCES deployments ON DELETE SET NULL,
    -- The default is the time of the row, not of its transaction: of concurrent requests the last one is the newest.
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    requested_at       timestamptz NOT NULL DEFAULT now(),  -- of the newest request that it answers
    -- When it may run.
    next_attempt_at    timestamptz NOT NULL DEFAULT now(),
    wait_length        interval NOT NULL DEFAULT '0 seconds',  -- of this wait: a later `next_attempt_at` means that
                                                               -- the clock was set back
    waits_for          text,                                   -- application ids that this claimed deployment waits for
    cancelled_at       timestamptz,                            -- when cancelling was requested while it ran
    superseded_by      text REFERENCES deployments ON DELETE SET NULL,
    -- The lease. Each claim increments the epoch; a write with an older epoch changes nothing.
    epoch              bigint NOT NULL DEFAULT 0,
    claimed_by         text,
    lease_length       interval NOT NULL DEFAULT '15 seconds',
    lease_until        timestamptz,
    -- The epoch up to which the objects on the engine carry the installation's id. Where it is behind `epoch`, a
    -- gateway of an earlier version claimed it, and objects are recognised by the deployment they name.
    marked_to          bigint NOT NULL DEFAULT 0,
    attempts           integer NOT NULL DEFAULT 0,
    takeovers          integer NOT NULL DEFAULT 0,  -- how often in a row its gateway died during an attempt
    defects            integer NOT NULL DEFAULT 0,  -- how many attempts ended on a defect of the gateway
    -- The outcome.
    started_at         timestamptz,
    finished_at        timestamptz,
    digest             text,                            -- as the registry answered
    replaced           boolean NOT NULL DEFAULT false,  -- a container took the place of another
    spec_hash          text,
    ran                bytea,                           -- encrypted: the application as it was when this succeeded
    reason_code        text,
    reason_message     text,
    log                text NOT NULL DEFAULT '',        -- the last lines of the container that failed
    CHECK ((finished_at IS NULL) = (status IN ('queued', 'running'))),
    CHECK ((lease_until IS NULL) = (status <> 'running')),
    CHECK (kind NOT IN ('deploy', 'redeploy') OR reference IS NOT NULL),
    CHECK (superseded_by IS NULL OR status = 'superseded'),
    CHECK (rolls_back_to IS NULL OR kind::text = 'rollback')
);

-- An application has at most one queued deployment and at most one running.
CREATE UNIQUE INDEX deployments_one_queued ON deployments (application_id) WHERE status = 'queued';
CREATE UNIQUE INDEX deployments_one_running ON deployments (application_id) WHERE status = 'running';
-- For the claim and the queue.
CREATE INDEX deployments_queue ON deployments (next_attempt_at) WHERE status = 'queued';
CREATE INDEX deployments_pending ON deployments (requested_at, deployment_id) WHERE status IN ('queued', 'running');
CREATE INDEX deployments_by_image_to_be ON deployments (reference)
    WHERE status IN ('queued', 'running') AND image IS NOT NULL AND moves_subscription;
CREATE INDEX deployments_unmarked ON deployments (application_id) WHERE marked_to <> epoch;
-- For lists.
CREATE INDEX deployments_newest ON deployments (created_at DESC, deployment_id DESC);
CREATE INDEX deployments_newest_of_application ON deployments (application_id, created_at DESC, deployment_id DESC);
-- For an application's state and versions: its newest outcome, the versions that served, the digest that serves.
CREATE INDEX deployments_telling ON deployments (application_id, created_at DESC)
    WHERE status NOT IN ('superseded', 'cancelled');
CREATE INDEX deployments_replaced ON deployments (application_id, finished_at DESC)
    WHERE status = 'succeeded' AND replaced;
CREATE INDEX deployments_by_serving_digest ON deployments (application_id, created_at DESC)
    WHERE status IN ('succeeded', 'unchanged') AND digest IS NOT NULL;
-- For the foreign keys, when a deployment is deleted.
CREATE INDEX deployments_superseded_by ON deployments (superseded_by) WHERE superseded_by IS NOT NULL;
CREATE INDEX deployments_rolls_back_to ON deployments (rolls_back_to) WHERE rolls_back_to IS NOT NULL;

-- Deployments of an application are ordered by `created_at`. A later one is newer even if the clock was set back.
CREATE FUNCTION follow_the_newest() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.created_at := greatest(
        NEW.created_at,
        (SELECT max(created_at) + interval '1 microsecond' FROM deployments WHERE application_id = NEW.application_id)
    );
    RETURN NEW;
END
$$;

CREATE TRIGGER deployments_follow_the_newest BEFORE INSERT ON deployments
    FOR EACH ROW EXECUTE FUNCTION follow_the_newest();

-- Which deliveries caused a deployment: one deployment may answer many.
CREATE TABLE deployment_deliveries (
    deployment_id text NOT NULL REFERENCES deployments ON DELETE CASCADE,
    delivery_id   text NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    PRIMARY KEY (delivery_id, deployment_id)
);

CREATE INDEX deployment_deliveries_by_deployment ON deployment_deliveries (deployment_id);

-- A deleted deployment leaves its status with the deliveries that caused it.
CREATE FUNCTION deployments_leave_their_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE deliveries
       SET ended = array_append(ended, OLD.status)
     WHERE delivery_id IN (SELECT delivery_id FROM deployment_deliveries WHERE deployment_id = OLD.deployment_id)
       AND OLD.status <> ALL (ended);
    RETURN OLD;
END
$$;

CREATE TRIGGER leave_their_end BEFORE DELETE ON deployments
    FOR EACH ROW EXECUTE FUNCTION deployments_leave_their_end();

-- The journal: each step of a rollout is written before its first side effect.
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

CREATE TYPE runtime AS ENUM ('container', 'service');
CREATE TYPE swap_order AS ENUM ('start-first', 'stop-first');
CREATE TYPE direction AS ENUM ('forward', 'back');

-- An open swap, at most one an application. While the row exists, `old` and `new` both do; the gateway that claims the
-- application next completes the swap or puts `old` back.
CREATE TABLE swaps (
    application_id     text PRIMARY KEY REFERENCES applications ON DELETE CASCADE,
    deployment_id      text NOT NULL REFERENCES deployments ON DELETE CASCADE,
    attempt            integer NOT NULL DEFAULT 0,  -- recognises what this attempt sent to a Swarm
    runtime            runtime NOT NULL DEFAULT 'container',
    swap_order         swap_order NOT NULL DEFAULT 'stop-first',
    serving_name       text NOT NULL,
    old                text,           -- a container's id; null at the first deployment
    old_restart_policy jsonb,
    new                text NOT NULL,
    new_restart_policy jsonb,          -- of a kept container that serves again; null for a created one
    direction          direction NOT NULL DEFAULT 'forward',
    reason_code        text,           -- why it goes back
    reason_message     text,
    log                text NOT NULL DEFAULT '',
    opened_at          timestamptz NOT NULL DEFAULT now(),
    -- A swap that went neither forward nor back leaves the application without a container: retried often, up to a
    -- bound.
    told_at            timestamptz,    -- when the alert was sent
    settlings          integer NOT NULL DEFAULT 0,  -- attempts to settle it
    defects            integer NOT NULL DEFAULT 0   -- of these, ended on a defect of the gateway
);

CREATE INDEX swaps_of_deployment ON swaps (deployment_id);

-- The monitor window after a rollout: a failure until its end rolls back. At most one an application. It is suspended
-- while another deployment of the application is queued or running, and deleted by one that replaces the container.
CREATE TABLE watches (
    application_id text PRIMARY KEY REFERENCES applications ON DELETE CASCADE,
    deployment_id  text NOT NULL REFERENCES deployments ON DELETE CASCADE,
    object_id      text NOT NULL,          -- the container or service
    restarts       integer NOT NULL,       -- its restart count at the start of the window
    until          timestamptz NOT NULL,
    length         interval                -- bounds the window if the clock was set back; null for an old row
);

CREATE INDEX watches_of_deployment ON watches (deployment_id);

-- Images pulled to an engine, recorded before the pull. An image without a container is removed, also after a
-- cancelled rollout, and after its application was deleted: hence no foreign keys.
CREATE TABLE pulled_images (
    engine_id      text NOT NULL,
    server_id      text NOT NULL DEFAULT '',  -- '': the gateway's own engine
    application_id text NOT NULL,
    repository     text NOT NULL,
    tag            text,
    digest         text NOT NULL,
    pulled_at      timestamptz NOT NULL DEFAULT now(),
    next_look_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (application_id, engine_id, server_id, repository, digest)
);

CREATE INDEX pulled_images_by_look ON pulled_images (engine_id, next_look_at);
CREATE INDEX pulled_images_by_digest ON pulled_images (digest);

-- == API keys

CREATE TYPE permission AS ENUM (
    'read',
    'deploy',  -- deploy applications as they are configured
    'admin'    -- everything
);

CREATE TABLE api_keys (
    key_id         text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    name           text NOT NULL,
    prefix         text NOT NULL,          -- shown, to tell keys apart
    key_hash       bytea NOT NULL UNIQUE,
    permission     permission NOT NULL DEFAULT 'admin',
    restricted     boolean NOT NULL DEFAULT false,  -- to its rows in key_applications and key_projects, even if none
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz,
    revoked_at     timestamptz,
    last_used_at   timestamptz,
    last_used_from inet,
    -- The rate limit: so many requests in a window; null: any number.
    rate_most      integer CHECK (rate_most > 0),
    rate_window    interval CHECK (rate_window > interval '0'),
    window_from    timestamptz,                 -- the current window, and its requests so far
    window_count   integer NOT NULL DEFAULT 0,
    CHECK ((rate_most IS NULL) = (rate_window IS NULL))
);

-- The applications that a restricted key may use. A deleted application takes the grant with it: a later one of the
-- same id is another application.
CREATE TABLE key_applications (
    key_id         text NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    application_id text NOT NULL REFERENCES applications ON DELETE CASCADE,
    PRIMARY KEY (key_id, application_id)
);

CREATE INDEX key_applications_of_application ON key_applications (application_id);

-- The projects that a restricted key may use, with all applications that are or will be in them.
CREATE TABLE key_projects (
    key_id     text NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    project_id text NOT NULL REFERENCES projects ON DELETE CASCADE,
    PRIMARY KEY (key_id, project_id)
);

CREATE INDEX key_projects_of_project ON key_projects (project_id);

-- == The audit

-- Who changed what, from where, and who was refused. Rows are inserted and expire; no row is changed.
--
-- A transaction that changes something for a person sets `gateway.actor` to that person, as JSON. The triggers below
-- then record each changed row in the same transaction. What the gateway does by itself is recorded by deployments.

CREATE TYPE audit_outcome AS ENUM (
    'done',
    'refused',  -- the key is invalid, or lacks the permission
    'failed'    -- allowed, but not possible
);

CREATE TABLE audit (
    number         bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    call_id        text NOT NULL,  -- the same for all changes of one call or command
    via            text NOT NULL CHECK (via IN ('api', 'cli')),
    who            text NOT NULL,  -- the key's name, or the user on the command line
    key_id         text,           -- outlives the key
    address        text,           -- of the sender, or the name of the command's host
    action         text NOT NULL,  -- the procedure, or the command
    noun           text,
    target         text,           -- the id of what was changed
    application_id text,
    before         jsonb,          -- the changed fields; of a secret only that it exists
    after          jsonb,
    outcome        audit_outcome NOT NULL,
    detail         text NOT NULL DEFAULT '',
    times          bigint NOT NULL DEFAULT 1 CHECK (times > 0)  -- how many refusals this row counts
);

CREATE INDEX audit_by_call ON audit (call_id);
CREATE INDEX audit_by_application ON audit (application_id, number) WHERE application_id IS NOT NULL;
CREATE INDEX audit_by_outcome ON audit (outcome, number);
CREATE INDEX audit_by_time ON audit (at);

CREATE FUNCTION audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('gateway.expires_audit', true) = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'rows of the audit are not changed: they expire' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change();

-- Return a row as the audit stores it: without the ignored columns, nested fields by their paths, and of encrypted or
-- hashed columns (bytea) only that they are set.
CREATE FUNCTION audit_fields(whole jsonb, ignored text[], hidden text[]) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(name, value), '{}')
      FROM (
           SELECT one.key AS name,
                  CASE WHEN one.key = ANY(hidden) THEN to_jsonb('secret ' || md5(one.value::text)) ELSE one.value END
                      AS value
             FROM jsonb_each(whole) AS one
            WHERE jsonb_typeof(one.value) NOT IN ('object', 'null') AND NOT one.key = ANY(ignored)
            UNION ALL
           SELECT one.key || '.' || part.key, part.value
             FROM jsonb_each(whole) AS one
            CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(one.value) = 'object' THEN one.value ELSE '{}' END)
                    AS part
            WHERE NOT one.key = ANY(ignored)
           ) AS fields
$$;

-- Return the fields of `one` that differ in `other`. Long values are cut; a secret becomes "(secret)".
CREATE FUNCTION audit_differing(one jsonb, other jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(
               key,
               CASE WHEN jsonb_typeof(value) = 'string' AND value #>> '{}' ~ '^secret [0-9a-f]{32}$' THEN '"(secret)"'
                    WHEN length(value::text) > 1000 THEN to_jsonb(left(value::text, 1000) || '…')
                    ELSE value END
           ), '{}')
      FROM jsonb_each(one)
     WHERE value IS DISTINCT FROM other -> key
$$;

-- Arguments: the noun, the id's column, and the columns that no person changes.
CREATE FUNCTION audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    actor    jsonb := current_setting('gateway.actor')::jsonb;
    ignored  text[] := TG_ARGV[2:];
    hidden   text[] := ARRAY(
        SELECT attname FROM pg_attribute
         WHERE attrelid = TG_RELID AND attnum > 0 AND NOT attisdropped AND atttypid = 'bytea'::regtype
    );
    row_was  jsonb := '{}';
    row_is   jsonb := '{}';
    was      jsonb;
    became   jsonb;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        row_was := to_jsonb(OLD);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        row_is := to_jsonb(NEW);
    END IF;
    was := audit_fields(row_was, ignored, hidden);
    became := audit_fields(row_is, ignored, hidden);
    IF was IS NOT DISTINCT FROM became THEN
        RETURN NULL;
    END IF;
    INSERT INTO audit (call_id, via, who, key_id, address, action, noun, target, application_id, before, after, outcome)
    VALUES (
        actor ->> 'call_id', actor ->> 'via', actor ->> 'who', actor ->> 'key_id', actor ->> 'address',
        actor ->> 'action', TG_ARGV[0], coalesce(row_is ->> TG_ARGV[1], row_was ->> TG_ARGV[1]),
        coalesce(row_is ->> 'application_id', row_was ->> 'application_id'),
        CASE WHEN TG_OP <> 'INSERT' THEN audit_differing(was, became) END,
        CASE WHEN TG_OP <> 'DELETE' THEN audit_differing(became, was) END,
        'done'
    );
    RETURN NULL;
END
$$;

CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON applications FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('application', 'application_id', 'created_at', 'engine_id');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON subscriptions FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('subscription', 'subscription_id', 'created_at');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON domains FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('domain', 'domain_id', 'created_at', 'number');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON projects FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('project', 'project_id', 'created_at');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON environments FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('environment', 'environment_id', 'created_at');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON servers FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('server', 'server_id', 'created_at', 'changed_at', 'engine_id', 'error');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON registries FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('registry', 'registry_id', 'created_at', 'domain', 'path');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON endpoints FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('webhook', 'endpoint_id', 'created_at');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON api_keys FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('key', 'key_id', 'created_at', 'last_used_at', 'last_used_from', 'window_from',
                                   'window_count');
CREATE TRIGGER audited AFTER INSERT OR DELETE ON key_applications FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('key', 'key_id');
CREATE TRIGGER audited AFTER INSERT OR DELETE ON key_projects FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('key', 'key_id');
CREATE TRIGGER audited AFTER INSERT ON deployments FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change(
        'deployment', 'deployment_id', 'created_at', 'requested_at', 'next_attempt_at', 'asked_by', 'asked_key',
        'lease_length', 'epoch', 'attempts', 'log', 'replaced', 'status', 'description'
    );
CREATE TRIGGER audited_cancelled AFTER UPDATE ON deployments FOR EACH ROW
    WHEN (
        current_setting('gateway.actor', true) <> ''
        AND (OLD.cancelled_at IS DISTINCT FROM NEW.cancelled_at OR OLD.status IS DISTINCT FROM NEW.status)
    )
    EXECUTE FUNCTION audit_change(
        'deployment', 'deployment_id', 'created_at', 'requested_at', 'next_attempt_at', 'asked_by', 'asked_key',
        'lease_length', 'epoch', 'attempts', 'log', 'replaced', 'finished_at', 'superseded_by'
    );

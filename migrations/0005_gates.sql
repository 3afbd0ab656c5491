-- expands
-- Gates: what a deployment must pass between resolve and pull.

CREATE TABLE gates (
    gate_id        text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    -- It belongs to one of these. Of gates with one name, an application has the nearest: its own, else that of its
    -- environment, else that of its project; but a required one is never replaced.
    application_id text REFERENCES applications ON DELETE CASCADE,
    environment_id text REFERENCES environments ON DELETE CASCADE,
    project_id     text REFERENCES projects ON DELETE CASCADE,
    kind           text NOT NULL,  -- the module in gateway/gates that decides
    name           text NOT NULL CHECK (name <> ''),
    rule           jsonb NOT NULL DEFAULT '{}',
    secret         bytea,          -- encrypted: what the rule needs and must not show
    enabled        boolean NOT NULL DEFAULT true,   -- false: turns off the inherited one of this name
    required       boolean NOT NULL DEFAULT false,  -- a nearer gate of this name does not replace it
    created_at     timestamptz NOT NULL DEFAULT now(),
    CHECK (num_nonnulls(application_id, environment_id, project_id) = 1),
    CHECK (enabled OR NOT required)
);

CREATE UNIQUE INDEX gates_of_application ON gates (application_id, name) WHERE application_id IS NOT NULL;
CREATE UNIQUE INDEX gates_of_environment ON gates (environment_id, name) WHERE environment_id IS NOT NULL;
CREATE UNIQUE INDEX gates_of_project ON gates (project_id, name) WHERE project_id IS NOT NULL;

CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON gates FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('gate', 'gate_id', 'created_at');

-- The last answer of each gate of a deployment.
CREATE TABLE gate_verdicts (
    deployment_id  text NOT NULL REFERENCES deployments ON DELETE CASCADE,
    gate_id        text NOT NULL,  -- outlives the gate
    name           text NOT NULL,
    kind           text NOT NULL,
    rule_hash      text NOT NULL,  -- of the rule that was applied
    repository     text NOT NULL,
    digest         text NOT NULL,  -- of the image that would run
    spec_hash      text NOT NULL,  -- of the configuration that it would run with
    verdict        text NOT NULL CHECK (verdict IN ('passed', 'refused', 'unknown')),
    code           text NOT NULL,
    message        text NOT NULL,
    evidence       jsonb NOT NULL DEFAULT '{}',
    first_asked_at timestamptz NOT NULL DEFAULT now(),  -- about this digest; of a superseded deployment, if it was asked
    asked_at       timestamptz NOT NULL DEFAULT now(),
    ask_again_at   timestamptz,    -- of an unknown one
    true_until     timestamptz,    -- until then a later deployment of the same may take it over; null: never
    told_at        timestamptz,    -- when an alert said that it waits for a person
    PRIMARY KEY (deployment_id, gate_id)
);

CREATE INDEX gate_verdicts_kept ON gate_verdicts (digest, gate_id, rule_hash) WHERE true_until IS NOT NULL;
CREATE INDEX gate_verdicts_unknown ON gate_verdicts (deployment_id) WHERE verdict = 'unknown';

-- A person lets one deployment pass one gate with one image.
CREATE TABLE gate_overrides (
    deployment_id  text NOT NULL REFERENCES deployments ON DELETE CASCADE,
    gate_id        text NOT NULL,
    digest         text NOT NULL,
    name           text NOT NULL,
    application_id text NOT NULL REFERENCES applications ON DELETE CASCADE,  -- for the audit
    reason         text NOT NULL CHECK (reason <> ''),
    overridden_by  text NOT NULL DEFAULT coalesce(
                       nullif(current_setting('gateway.actor', true), '')::jsonb ->> 'who', 'the gateway'),
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (deployment_id, gate_id, digest)
);

CREATE TRIGGER audited AFTER INSERT ON gate_overrides FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('override', 'deployment_id', 'created_at');

-- How often something happened that a gate waits for: then its deployment asks again at once, also if it asks now.
ALTER TABLE deployments ADD COLUMN wakes integer NOT NULL DEFAULT 0;
-- When its gates let it pass after it had waited at one: the time for retries counts from then.
ALTER TABLE deployments ADD COLUMN passed_gates_at timestamptz;

-- == Maturity: since when a digest has been out

-- One clock for a digest of a repository, whoever asks. It is never started anew while its row exists.
CREATE TABLE first_seen (
    repository text NOT NULL,
    digest     text NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT now(),  -- only ever becomes earlier
    asked_at   timestamptz NOT NULL DEFAULT now(),  -- when it was last needed
    PRIMARY KEY (repository, digest)
);

CREATE INDEX first_seen_by_use ON first_seen (asked_at);

-- == Groups and releases

-- Applications that go out together.
CREATE TABLE groups (
    group_id    text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    name        text NOT NULL UNIQUE CHECK (name <> ''),
    description text NOT NULL DEFAULT '',
    settle      integer CHECK (settle > 0),  -- seconds for which deployments of members are gathered; null: they are not
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE group_members (
    group_id       text NOT NULL REFERENCES groups ON DELETE CASCADE,
    application_id text NOT NULL REFERENCES applications ON DELETE CASCADE,
    wave           integer NOT NULL DEFAULT 1 CHECK (wave > 0),  -- a wave begins when the one before has succeeded
    gathers        boolean NOT NULL DEFAULT false,               -- whether the group has `settle`
    PRIMARY KEY (group_id, application_id)
);

-- Only one group gathers the deployments of an application.
CREATE UNIQUE INDEX group_members_gathering ON group_members (application_id) WHERE gathers;
CREATE INDEX group_members_of_application ON group_members (application_id);

-- One time that applications go out together: all of them run the new version at its end, or none does.
CREATE TABLE releases (
    release_id     text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    group_id       text,           -- of one of these; it outlives both
    environment_id text,
    name           text NOT NULL,  -- of the group or the environment, as it was
    title          text NOT NULL DEFAULT '',
    state          text NOT NULL DEFAULT 'preparing' CHECK (state IN (
                       'preparing', 'moving', 'proving', 'putting_back', 'succeeded', 'put_back', 'failed')),
    asked_by       text DEFAULT nullif(current_setting('gateway.actor', true), '')::jsonb ->> 'who',
    asked_key      text DEFAULT nullif(current_setting('gateway.actor', true), '')::jsonb ->> 'key_id',
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    cancelled_at   timestamptz,
    abandoned_at   timestamptz,  -- a person ends it as it is, though not all is put back
    finished_at    timestamptz,
    reason_code    text,         -- why it is put back
    reason_message text,
    CHECK ((finished_at IS NULL) = (state IN ('preparing', 'moving', 'proving', 'putting_back')))
);

CREATE INDEX releases_open ON releases (created_at) WHERE finished_at IS NULL;
CREATE INDEX releases_newest ON releases (created_at DESC, release_id DESC);
CREATE INDEX releases_of_group ON releases (group_id, created_at DESC, release_id DESC) WHERE group_id IS NOT NULL;

-- While `open`, only deployments of this release are claimed for the application.
CREATE TABLE release_members (
    release_id      text NOT NULL REFERENCES releases ON DELETE CASCADE,
    application_id  text NOT NULL REFERENCES applications ON DELETE CASCADE,
    wave            integer NOT NULL,
    open            boolean NOT NULL DEFAULT true,
    prepared_by     text,         -- the deployment that is pulled, verified and created
    prepared_at     timestamptz,
    prepared_spec   text,         -- a hash of the configuration that it was created with
    image_before    text,         -- the application's own image then
    due_at          timestamptz,  -- since then it may change what serves
    trouble_code    text,         -- seen in its monitor window
    trouble_message text,
    PRIMARY KEY (release_id, application_id)
);

CREATE UNIQUE INDEX release_members_open ON release_members (application_id) WHERE open;
CREATE INDEX release_members_of_application ON release_members (application_id);

-- The release that a deployment belongs to. It outlives the release. A deployment that waits for the other members runs,
-- without an owner: nothing else of the application is claimed, and newer requests queue behind it.
ALTER TABLE deployments ADD COLUMN release_id text;
CREATE INDEX deployments_of_release ON deployments (release_id) WHERE release_id IS NOT NULL;

CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON groups FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('group', 'group_id', 'created_at');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON group_members FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('group', 'group_id', 'gathers');
CREATE TRIGGER audited AFTER INSERT OR UPDATE ON releases FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('release', 'release_id', 'created_at', 'asked_by', 'asked_key');

-- == Promotion: an application follows another one

-- An application follows at most one other.
CREATE UNIQUE INDEX gates_one_promotion ON gates (application_id)
    WHERE kind = 'promotion' AND application_id IS NOT NULL;
CREATE INDEX gates_following ON gates ((rule ->> 'follows')) WHERE kind = 'promotion';

-- How long an application that is followed has run a digest well.
CREATE TABLE soaks (
    application_id text NOT NULL REFERENCES applications ON DELETE CASCADE,
    digest         text NOT NULL,
    -- The clock. It stands while `run` is null: something else runs, or this one is not well.
    run            text,                 -- what runs: the container and its start, or the tasks
    since          timestamptz,          -- when it began; later by the time in which nobody observed it
    seen_at        timestamptz,          -- when it was last observed to be well
    longest        interval NOT NULL DEFAULT '0 seconds',  -- the most it has shown, its monitor window being over
    failed_at      timestamptz,          -- when it was rolled back, or had trouble in its monitor window
    failure        text NOT NULL DEFAULT '',
    PRIMARY KEY (application_id, digest),
    CHECK ((run IS NULL) = (since IS NULL)),
    CHECK (run IS NULL OR seen_at IS NOT NULL)
);

CREATE TYPE promotion_state AS ENUM (
    'proposed',   -- waits for a person
    'waiting',    -- proven, but the follower cannot have it yet: its registry does not have the digest, or it is stopped
    'queued',     -- as `deployment_id`, which may run by now
    'promoted',
    'failed',     -- its deployment failed, or it waited too long; a person may promote it again
    'withdrawn',  -- by the gateway, since the followed application went on; it comes again if that one proves it anew
    'declined'    -- by a person
);

-- What a follower got, or is about to get: a digest once.
CREATE TABLE promotions (
    application_id text NOT NULL REFERENCES applications ON DELETE CASCADE,  -- the follower
    digest         text NOT NULL,
    follows        text NOT NULL,        -- the application that proved it; outlives it
    state          promotion_state NOT NULL,
    reason         text NOT NULL DEFAULT '',
    proven_at      timestamptz NOT NULL DEFAULT now(),
    changed_at     timestamptz NOT NULL DEFAULT now(),  -- when it entered this state
    next_look_at   timestamptz,          -- of a waiting one
    deployment_id  text REFERENCES deployments ON DELETE SET NULL,
    PRIMARY KEY (application_id, digest)
);

-- A follower has at most one that is not over.
CREATE UNIQUE INDEX promotions_one_open ON promotions (application_id)
    WHERE state IN ('proposed', 'waiting', 'queued');
CREATE INDEX promotions_of_deployment ON promotions (deployment_id) WHERE deployment_id IS NOT NULL;

CREATE TRIGGER audited AFTER INSERT OR UPDATE ON promotions FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('promotion', 'application_id', 'proven_at', 'changed_at', 'next_look_at');

-- == Approvals: people let a digest with a configuration pass

-- What people are asked. An approval is for one digest of one repository with one configuration: whatever else a
-- deployment brings is another one.
CREATE TABLE approvals (
    approval_id    text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    application_id text NOT NULL REFERENCES applications ON DELETE CASCADE,
    gate_id        text NOT NULL,              -- outlives the gate
    gate_name      text NOT NULL,
    deployment_id  text NOT NULL REFERENCES deployments ON DELETE CASCADE,  -- that asked last
    repository     text NOT NULL,
    digest         text NOT NULL,
    spec_hash      text NOT NULL,
    image          text NOT NULL,              -- as it is shown
    serving        text,                       -- the digest that served when it was asked
    changes        jsonb NOT NULL DEFAULT '[]',  -- of the configuration, without secrets
    fingerprint    text NOT NULL,              -- of the configuration as it was stored when it was asked last
    rule           jsonb NOT NULL,             -- who may approve, and how many must
    askers         text[] NOT NULL DEFAULT '{}',  -- who asked for the deployment, as `approver` below
    created_at     timestamptz NOT NULL DEFAULT now(),
    deadline_at    timestamptz NOT NULL,
    passed_at      timestamptz,                -- when its gate let the deployment pass that asked last
    closed_at      timestamptz                 -- when something else was asked, or its deployment had ended
);

-- An application is asked one thing at a time by a gate.
CREATE UNIQUE INDEX approvals_one_open ON approvals (application_id, gate_id) WHERE closed_at IS NULL;
CREATE INDEX approvals_of_deployment ON approvals (deployment_id);
CREATE INDEX approvals_closed ON approvals (application_id, gate_id, closed_at);

-- Who asked for a deployment before somebody else did: `asked_by` and `asked_key` have the last one alone.
CREATE TABLE deployment_askers (
    deployment_id text NOT NULL REFERENCES deployments ON DELETE CASCADE,
    asked_by      text NOT NULL,
    asked_key     text NOT NULL,  -- empty for a user of the command line
    PRIMARY KEY (deployment_id, asked_by, asked_key)
);

CREATE FUNCTION deployments_keep_askers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO deployment_askers (deployment_id, asked_by, asked_key)
    VALUES (OLD.deployment_id, OLD.asked_by, coalesce(OLD.asked_key, ''))
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

CREATE TRIGGER keep_askers AFTER UPDATE OF asked_by, asked_key ON deployments FOR EACH ROW
    WHEN (OLD.asked_by IS NOT NULL AND (OLD.asked_by, OLD.asked_key) IS DISTINCT FROM (NEW.asked_by, NEW.asked_key))
    EXECUTE FUNCTION deployments_keep_askers();

-- A gate that is gone asks nothing.
CREATE FUNCTION gates_close_approvals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE approvals SET closed_at = now() WHERE gate_id = OLD.gate_id AND closed_at IS NULL;
    RETURN NULL;
END
$$;

CREATE TRIGGER close_approvals AFTER DELETE ON gates FOR EACH ROW EXECUTE FUNCTION gates_close_approvals();

CREATE TYPE approval_answer AS ENUM ('approve', 'reject', 'defer');

-- What each person answered last.
CREATE TABLE approval_answers (
    approval_id    text NOT NULL REFERENCES approvals ON DELETE CASCADE,
    approver       text NOT NULL,              -- key:ID of an API key, cli:USER of a host, or link
    application_id text NOT NULL,
    name           text NOT NULL,              -- of the key or the user
    answer         approval_answer NOT NULL,
    reason         text NOT NULL DEFAULT '',
    until          timestamptz,                -- of a deferral
    answered_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (approval_id, approver),
    CHECK ((answer = 'defer') = (until IS NOT NULL)),
    CHECK (answer <> 'reject' OR reason <> '')
);

CREATE TRIGGER audited AFTER INSERT OR UPDATE ON approval_answers FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('approval', 'approval_id', 'answered_at', 'application_id');

-- Links in alerts. Whoever has one may answer once.
CREATE TABLE approval_links (
    token_hash  bytea PRIMARY KEY,             -- SHA-256 of 32 random bytes
    approval_id text NOT NULL REFERENCES approvals ON DELETE CASCADE,
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz
);

CREATE INDEX approval_links_of_approval ON approval_links (approval_id);

-- == Vulnerabilities: what scanners have reported

-- The last report of a scanner about an image, for each platform. It is about the content, so it is everybody's who may
-- deploy the digest.
CREATE TABLE scan_reports (
    digest     text NOT NULL,
    platform   text NOT NULL,
    scanner    text NOT NULL,
    database   text NOT NULL,  -- version of its database; '': not known, and so not used again
    report     bytea NOT NULL, -- the scanner's own, compressed with gzip
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (digest, platform, scanner)
);

CREATE INDEX scan_reports_age ON scan_reports (created_at);

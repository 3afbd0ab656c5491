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
    deployment_id text NOT NULL REFERENCES deployments ON DELETE CASCADE,
    gate_id       text NOT NULL,
    digest        text NOT NULL,
    name          text NOT NULL,
    reason        text NOT NULL CHECK (reason <> ''),
    overridden_by text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
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

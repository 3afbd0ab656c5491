-- expands
-- Alerts: whom the gateway tells of what happens to applications, and the outbox from which they are told.

CREATE TABLE alerts (
    alert_id       text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    name           text NOT NULL CHECK (name <> ''),
    -- Of an application, of the applications of a project, or of all.
    application_id text REFERENCES applications ON DELETE CASCADE,
    project_id     text REFERENCES projects ON DELETE CASCADE,
    receiver       text NOT NULL,           -- the kind of who is told: apprise, webhook, github, gitlab, gitea
    target         text NOT NULL,           -- what may be shown of the address
    address        bytea,                   -- encrypted: the address and its secrets; null: a setting has it
    events         text[] NOT NULL CHECK (events <> '{}'),
    quiet_hours    jsonb NOT NULL DEFAULT '[]',     -- windows in which nothing is sent; it is sent after them
    allow_private  boolean NOT NULL DEFAULT false,  -- the address may be in a private network
    enabled        boolean NOT NULL DEFAULT true,
    created_at     timestamptz NOT NULL DEFAULT now(),
    set_at         timestamptz,             -- when a gateway last had it in its settings
    -- How the receiver does.
    failures       integer NOT NULL DEFAULT 0,  -- in a row
    paused_until   timestamptz,             -- nothing is sent until then
    last_error     text,
    delivered_at   timestamptz,             -- the last time
    CHECK (num_nonnulls(application_id, project_id) <= 1)
);

CREATE INDEX alerts_of_application ON alerts (application_id) WHERE application_id IS NOT NULL;
CREATE INDEX alerts_of_project ON alerts (project_id) WHERE project_id IS NOT NULL;

CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON alerts FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('alert', 'alert_id', 'created_at', 'set_at', 'failures', 'paused_until', 'last_error',
                                  'delivered_at');

-- What happened. Written in the transaction that makes it true, if an alert is for it.
CREATE TABLE outbox_events (
    event_id       text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    key            text NOT NULL UNIQUE,    -- what happens once is written once
    application_id text NOT NULL,           -- outlives the application
    deployment_id  text,
    kinds          text[] NOT NULL,         -- the first one names it
    content        jsonb NOT NULL,
    origin         jsonb,                   -- the repository and commit of its image, when they were looked up
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX outbox_events_by_time ON outbox_events (created_at);

CREATE TYPE outbox_state AS ENUM (
    'waiting',
    'delivered',
    'failed'     -- given up
);

-- Who is to be told of it. Of one application, a receiver is told in the order of the numbers.
CREATE TABLE outbox_deliveries (
    delivery_id     text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    number          bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    event_id        text NOT NULL REFERENCES outbox_events ON DELETE CASCADE,
    alert_id        text NOT NULL REFERENCES alerts ON DELETE CASCADE,
    application_id  text NOT NULL,
    state           outbox_state NOT NULL DEFAULT 'waiting',
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    claimed_by      text,
    lease_until     timestamptz,
    epoch           bigint NOT NULL DEFAULT 0,  -- each claim raises it; a write with an older one changes nothing
    progress        jsonb NOT NULL DEFAULT '{}',  -- what the receiver has taken of it so far
    status_code     integer,                -- of the last answer
    error           text,
    queued_at       timestamptz NOT NULL DEFAULT clock_timestamp(),  -- later for one that is replayed
    finished_at     timestamptz,
    UNIQUE (alert_id, event_id),
    CHECK ((finished_at IS NULL) = (state = 'waiting'))
);

CREATE INDEX outbox_waiting ON outbox_deliveries (alert_id, application_id, number) WHERE state = 'waiting';
CREATE INDEX outbox_of_alert ON outbox_deliveries (alert_id, queued_at DESC, delivery_id DESC);
CREATE INDEX outbox_newest ON outbox_deliveries (queued_at DESC, delivery_id DESC);
CREATE INDEX outbox_of_event ON outbox_deliveries (event_id);
CREATE INDEX outbox_of_application ON outbox_deliveries (application_id, queued_at DESC, delivery_id DESC);
CREATE INDEX outbox_finished ON outbox_deliveries (finished_at) WHERE finished_at IS NOT NULL;

-- Write an event for the alerts that are for it, and return their number. Where there is no alert, it only looks.
-- `kinds` gets `first` or `recovered` added where a deployment succeeds.
CREATE FUNCTION outbox_write(about text, deployment text, event_key text, kinds text[], content jsonb)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    place   record;
    before  text;
    written text;
    told    integer;
BEGIN
    IF NOT EXISTS (SELECT FROM alerts WHERE enabled) THEN
        RETURN 0;
    END IF;
    SELECT a.name, e.name AS environment, p.name AS project, p.project_id,
           (SELECT CASE WHEN coalesce(d.columns ->> 'https', 'false') = 'true' THEN 'https://' ELSE 'http://' END
                       || d.host || coalesce(nullif(d.columns ->> 'path', '/'), '')
              FROM domains d WHERE d.application_id = about ORDER BY d.number LIMIT 1) AS url
      INTO place
      FROM applications a
      LEFT JOIN environments e USING (environment_id)
      LEFT JOIN projects p USING (project_id)
     WHERE a.application_id = about;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    IF content -> 'deployment' ->> 'digest' IS NULL AND deployment IS NOT NULL THEN
        content := jsonb_set(content, '{deployment,digest}', coalesce(
            (SELECT to_jsonb(digest) FROM deployments WHERE deployment_id = deployment), 'null'));
    END IF;
    IF 'succeeded' = ANY (kinds) OR 'unchanged' = ANY (kinds) THEN
        SELECT status::text INTO before
          FROM deployments
         WHERE application_id = about AND deployment_id <> deployment
           AND status IN ('succeeded', 'unchanged', 'failed', 'rolled_back')
         ORDER BY finished_at DESC
         LIMIT 1;
        IF before IN ('failed', 'rolled_back') THEN
            kinds := kinds || 'recovered'::text;
        END IF;
        IF 'succeeded' = ANY (kinds) AND NOT EXISTS (
            SELECT FROM deployments
             WHERE application_id = about AND deployment_id <> deployment AND status IN ('succeeded', 'unchanged')
        ) THEN
            kinds := kinds || 'first'::text;
        END IF;
    END IF;
    INSERT INTO outbox_events (key, application_id, deployment_id, kinds, content)
    SELECT event_key, about, deployment, outbox_write.kinds,
           outbox_write.content || jsonb_build_object('application', jsonb_build_object(
               'applicationId', about, 'name', place.name, 'environment', place.environment, 'project', place.project,
               'url', place.url))
     WHERE EXISTS (
               SELECT FROM alerts t
                WHERE t.enabled AND t.events && outbox_write.kinds
                  AND (t.application_id IS NULL OR t.application_id = about)
                  AND (t.project_id IS NULL OR t.project_id = place.project_id)
           )
        ON CONFLICT (key) DO NOTHING
    RETURNING event_id INTO written;
    IF written IS NULL THEN
        RETURN 0;
    END IF;
    INSERT INTO outbox_deliveries (event_id, alert_id, application_id)
    SELECT written, t.alert_id, about
      FROM alerts t
     WHERE t.enabled AND t.events && outbox_write.kinds
       AND (t.application_id IS NULL OR t.application_id = about)
       AND (t.project_id IS NULL OR t.project_id = place.project_id)
     ORDER BY t.alert_id;
    GET DIAGNOSTICS told = ROW_COUNT;
    PERFORM pg_notify('outbox', '');
    RETURN told;
END
$$;

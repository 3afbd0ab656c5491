-- Who changed what, from where, and who was refused. A row is added and expires; nothing changes one.
--
-- Whoever changes something for a person says so in the setting gateway.actor of its transaction, and the tables below
-- write down what became of their rows, in that same transaction. What the gateway does by itself, deployments tell.

CREATE TYPE audit_outcome AS ENUM (
    'done',
    'refused',  -- the key may not, or is none
    'failed'    -- it may, and it could not be done
);

CREATE TABLE audit (
    number         bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    call_id        text NOT NULL,  -- one for all that one call, or command, changed
    via            text NOT NULL CHECK (via IN ('api', 'cli')),
    who            text NOT NULL,  -- the key's name, or the user on the command line
    key_id         text,           -- outlives the key
    address        text,           -- of the sender, or the name of the command's host
    action         text NOT NULL,  -- the procedure, or the command
    noun           text,
    target         text,           -- the id of what was changed
    application_id text,
    before         jsonb,          -- what was changed of it; of a secret only that there is one
    after          jsonb,
    outcome        audit_outcome NOT NULL,
    detail         text NOT NULL DEFAULT '',
    times          bigint NOT NULL DEFAULT 1 CHECK (times > 0)  -- how many refusals it stands for
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

-- Return a row as the audit keeps it: without the columns named, the parts of objects by their paths, and of what is
-- sealed or hashed (bytea) only that it is there.
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

-- Return the fields of one that differ in another, long ones cut, and of secrets that there is one.
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

-- Arguments: what it is called, the column of its id, and columns that are no person's to change.
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
    EXECUTE FUNCTION audit_change('key', 'key_id', 'created_at', 'last_used_at', 'last_used_from', 'window_from', 'window_count');
CREATE TRIGGER audited AFTER INSERT OR DELETE ON key_applications FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('key', 'key_id');
CREATE TRIGGER audited AFTER INSERT OR DELETE ON key_projects FOR EACH ROW
    WHEN (current_setting('gateway.actor', true) <> '')
    EXECUTE FUNCTION audit_change('key', 'key_id');

-- Who asked for a deployment; null: a webhook, or the gateway by itself.
ALTER TABLE deployments
    ADD COLUMN asked_by  text,
    ADD COLUMN asked_key text;  -- the key's id; outlives it
ALTER TABLE deployments
    ALTER COLUMN asked_by SET DEFAULT nullif(current_setting('gateway.actor', true), '')::jsonb ->> 'who',
    ALTER COLUMN asked_key SET DEFAULT nullif(current_setting('gateway.actor', true), '')::jsonb ->> 'key_id';

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

-- expands
-- What the target of an audit row was called at that time: later, it may be renamed or deleted.
ALTER TABLE audit ADD COLUMN target_name text;

-- Arguments: the noun, the id's column, and the columns that no person changes.
CREATE OR REPLACE FUNCTION audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    actor    jsonb := current_setting('gateway.actor')::jsonb;
    noun     text := TG_ARGV[0];
    ignored  text[] := TG_ARGV[2:];
    hidden   text[] := ARRAY(
        SELECT attname FROM pg_attribute
         WHERE attrelid = TG_RELID AND attnum > 0 AND NOT attisdropped AND atttypid = 'bytea'::regtype
    );
    row_was  jsonb := '{}';
    row_is   jsonb := '{}';
    newest   jsonb;
    was      jsonb;
    became   jsonb;
    called   text;
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
    newest := CASE WHEN TG_OP = 'DELETE' THEN row_was ELSE row_is END;
    -- These have no name, or one of something else.
    IF noun NOT IN ('approval', 'deployment', 'override', 'promotion', 'subscription') THEN
        called := coalesce(nullif(newest ->> 'name', ''), newest ->> 'registry_name', newest ->> 'host');
    END IF;
    IF called IS NULL THEN
        called := CASE noun
            WHEN 'key' THEN (SELECT name FROM api_keys WHERE key_id = newest ->> 'key_id')
            WHEN 'group' THEN (SELECT name FROM groups WHERE group_id = newest ->> 'group_id')
            ELSE (SELECT name FROM applications WHERE application_id = newest ->> 'application_id')
        END;
    END IF;
    INSERT INTO audit (call_id, via, who, key_id, address, action, noun, target, target_name, application_id, before,
                       after, outcome)
    VALUES (
        actor ->> 'call_id', actor ->> 'via', actor ->> 'who', actor ->> 'key_id', actor ->> 'address',
        actor ->> 'action', noun, coalesce(row_is ->> TG_ARGV[1], row_was ->> TG_ARGV[1]), called,
        coalesce(row_is ->> 'application_id', row_was ->> 'application_id'),
        CASE WHEN TG_OP <> 'INSERT' THEN audit_differing(was, became) END,
        CASE WHEN TG_OP <> 'DELETE' THEN audit_differing(became, was) END,
        'done'
    );
    RETURN NULL;
END
$$;

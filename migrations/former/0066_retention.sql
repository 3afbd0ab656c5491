-- What grows has a bound: deployments by their number and age, the inbox by its size.

-- What the inbox takes, by the ten minutes in which deliveries came: it is measured piece by piece, never as a whole.
CREATE TABLE inbox_spans (
    begins      timestamptz PRIMARY KEY,
    bytes       bigint NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX inbox_spans_measured ON inbox_spans (measured_at);

-- How deployments ended that a delivery caused and that are no longer kept: its verdict stays what it was, and a
-- repetition of it starts nothing.
ALTER TABLE deliveries ADD COLUMN ended status[] NOT NULL DEFAULT '{}';

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

-- Deployments of an application are ordered by their time, so it never goes backwards, though a clock does: one that is
-- asked for later is younger.
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

-- Readiness is told by a write, which is undone: only the server's refusal matters.
CREATE TABLE readiness_probes (
    filler bytea NOT NULL
);
ALTER TABLE readiness_probes ALTER COLUMN filler SET STORAGE PLAIN;

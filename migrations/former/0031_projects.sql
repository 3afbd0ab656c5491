-- Where applications belong, and whose variables they may name.

CREATE TABLE projects (
    project_id  text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    name        text NOT NULL CHECK (name <> ''),
    description text,
    variables   bytea,  -- sealed: dotenv text
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE environments (
    environment_id text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    project_id     text NOT NULL REFERENCES projects ON DELETE CASCADE,
    name           text NOT NULL CHECK (name <> ''),
    description    text,
    variables      bytea,                           -- sealed: dotenv text
    is_default     boolean NOT NULL DEFAULT false,  -- made with its project, and gone with it
    created_at     timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX environments_of_project ON environments (project_id);
CREATE UNIQUE INDEX environments_one_default ON environments (project_id) WHERE is_default;

-- Applications are never removed with what they belong to; one that is being deleted does not hold it up.
ALTER TABLE applications ADD COLUMN environment_id text REFERENCES environments;

INSERT INTO projects (project_id, name) SELECT 'default', 'Default' WHERE EXISTS (SELECT FROM applications);
INSERT INTO environments (environment_id, project_id, name, description, is_default)
SELECT project_id, project_id, 'production', 'Production environment', true FROM projects;
UPDATE applications
   SET environment_id = 'default', other_columns = other_columns - 'environmentId';

ALTER TABLE applications
    ADD CONSTRAINT applications_belong CHECK (environment_id IS NOT NULL OR desired = 'deleted');

CREATE INDEX applications_of_environment ON applications (environment_id);

-- Keys for whole projects: whatever is in one, or comes to be.
CREATE TABLE key_projects (
    key_id     text NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    project_id text NOT NULL REFERENCES projects ON DELETE CASCADE,
    PRIMARY KEY (key_id, project_id)
);

CREATE INDEX key_projects_of_project ON key_projects (project_id);

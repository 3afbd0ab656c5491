-- expands
-- What was made for a declaration: only that is removed when the declaration no longer has it.
CREATE TABLE declared_objects (
    declaration    text NOT NULL CHECK (declaration <> ''),  -- the name of the files that are applied together
    application_id text UNIQUE REFERENCES applications ON DELETE CASCADE,
    project_id     text UNIQUE REFERENCES projects ON DELETE CASCADE,
    environment_id text UNIQUE REFERENCES environments ON DELETE CASCADE,
    group_id       text UNIQUE REFERENCES groups ON DELETE CASCADE,
    endpoint_id    text UNIQUE REFERENCES endpoints ON DELETE CASCADE,
    registry_id    text UNIQUE REFERENCES registries ON DELETE CASCADE,
    server_id      text UNIQUE REFERENCES servers ON DELETE CASCADE,
    key_id         text UNIQUE REFERENCES api_keys ON DELETE CASCADE,
    made_at        timestamptz NOT NULL DEFAULT now(),
    CHECK (num_nonnulls(application_id, project_id, environment_id, group_id, endpoint_id, registry_id, server_id,
                        key_id) = 1)
);

CREATE INDEX declared_objects_of ON declared_objects (declaration);

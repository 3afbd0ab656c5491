-- expands
-- Alerts are made for declarations, too.
ALTER TABLE declared_objects ADD COLUMN alert_id text UNIQUE REFERENCES alerts ON DELETE CASCADE;
ALTER TABLE declared_objects DROP CONSTRAINT declared_objects_check;
ALTER TABLE declared_objects ADD CHECK (
    num_nonnulls(application_id, project_id, environment_id, group_id, endpoint_id, registry_id, server_id, key_id,
                 alert_id) = 1
);

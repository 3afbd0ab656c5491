-- A container's name is one on its host: two hosts may each have their `web`.
ALTER TABLE applications DROP CONSTRAINT applications_app_name_key;
CREATE UNIQUE INDEX applications_app_name_on_host ON applications (app_name, coalesce(server_id, ''));

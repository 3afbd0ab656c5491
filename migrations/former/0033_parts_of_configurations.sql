-- Ports and mounts are named one by one, and files have a content.

ALTER TABLE applications
    ADD COLUMN files bytea;  -- sealed: what the files in `configuration` hold, by where they are mounted

UPDATE applications
   SET configuration = configuration || jsonb_build_object('ports', (
           SELECT jsonb_agg(port || jsonb_build_object('portId', gen_random_uuid()::text) ORDER BY place)
             FROM jsonb_array_elements(configuration -> 'ports') WITH ORDINALITY AS each (port, place)
       ))
 WHERE configuration @? '$.ports[0]';

UPDATE applications
   SET configuration = configuration || jsonb_build_object('mounts', (
           SELECT jsonb_agg(mount || jsonb_build_object('mountId', gen_random_uuid()::text) ORDER BY place)
             FROM jsonb_array_elements(configuration -> 'mounts') WITH ORDINALITY AS each (mount, place)
       ))
 WHERE configuration @? '$.mounts[0]';

CREATE INDEX applications_by_parts ON applications USING gin (configuration jsonb_path_ops);

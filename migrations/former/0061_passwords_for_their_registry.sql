-- The registry an application's own password was given for: it is sent to no other, whatever its image is called later.
ALTER TABLE applications ADD COLUMN password_for text;

UPDATE applications
   SET password_for = CASE
           WHEN host IN ('docker.com', 'hub.docker.com', 'www.docker.com', 'index.docker.io', 'registry-1.docker.io',
                         'registry.hub.docker.com') THEN 'docker.io'
           ELSE host END
  FROM (
       SELECT application_id AS named,
              CASE WHEN coalesce(registry_url, '') <> ''
                   THEN lower(regexp_replace(
                            split_part(regexp_replace(trim(registry_url), '^https?://', ''), '/', 1),
                            CASE WHEN registry_url LIKE 'https:%' THEN ':443$' ELSE ':80$' END, ''))
                   WHEN split_part(docker_image, '/', 1) ~ '[.:]' AND docker_image LIKE '%/%'
                     OR docker_image LIKE 'localhost/%'
                   THEN lower(split_part(docker_image, '/', 1))
                   ELSE 'docker.io' END AS host
         FROM applications
       ) AS meant
 WHERE application_id = named AND registry_password IS NOT NULL AND (docker_image IS NOT NULL OR registry_url <> '');

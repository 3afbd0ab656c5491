-- expands
-- Why a push deploys nothing is told from a few subscriptions to its path. They were any twenty: where more applications
-- follow the path at another host, the push's own repository was said to have no subscription at all.

DROP INDEX subscriptions_by_path;
-- For a push without a match: names the hosts at which something subscribes to the path, one after the other.
CREATE INDEX subscriptions_by_path ON subscriptions (substr(repository, strpos(repository, '/') + 1), repository);

-- What subscribes to this path, at the first twenty registries that have it: a few [repository, rule, pattern] of each;
-- '' where nothing does.
CREATE OR REPLACE FUNCTION subscribed_at(path text) RETURNS text LANGUAGE sql STABLE AS $$
    WITH RECURSIVE named (repository, place) AS (
        SELECT min(repository), 1 FROM subscriptions WHERE substr(repository, strpos(repository, '/') + 1) = path
         UNION ALL
        SELECT (
               SELECT min(s.repository)
                 FROM subscriptions s
                WHERE substr(s.repository, strpos(s.repository, '/') + 1) = path AND s.repository > n.repository
               ), place + 1
          FROM named n
         WHERE n.repository IS NOT NULL AND place < 20
    )
    SELECT coalesce(jsonb_agg(line ORDER BY line)::text, '')
      FROM named n
     CROSS JOIN LATERAL (
           SELECT DISTINCT jsonb_build_array(f.repository, f.rule, f.pattern) AS line
             FROM (
                  SELECT s.repository, s.rule, s.pattern
                    FROM subscriptions s
                    JOIN applications a USING (application_id)
                   WHERE s.repository = n.repository AND a.desired <> 'deleted' AND a.auto_deploy
                   LIMIT 20
                  ) AS f
            LIMIT 6
           ) AS lines
$$;

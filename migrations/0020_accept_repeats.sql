-- expands
-- Accepting repetitions that deploy nothing together, as `accept_3` does with those of a delivery that has taken effect.

-- Accept deliveries whose key another delivery has, where that one waits for its deployment and theirs may be a new push
-- of it, or where that one has deployed nothing and no application follows their images. The others are left as they
-- are: `gateway.queue.ingest` decides them one by one.
--
-- The arguments are those of `accept_3`. The result has a line for each delivery that was accepted: `unfollowed` says
-- whether it ignores `all_unmatched`. A line without `duplicate_of` is for one that may be accepted if it is given again:
-- something else is subscribed by now (`subscribed`, by the numbers of images).
CREATE FUNCTION accept_repeats(
    endpoint_ids text[], endpoint_versions text[], endpoint_sources text[], headers jsonb[],
    delivery_ids text[], delivery_endpoints integer[], delivery_headers integer[], keys text[],
    key_windows double precision[], may_repeat boolean[], bodies bytea[], all_unmatched text[],
    push_deliveries integer[], push_images integer[],
    image_repositories text[], image_tags text[], image_subscribed text[]
) RETURNS TABLE (number integer, duplicate_of text, unfollowed boolean, subscribed jsonb) LANGUAGE plpgsql
-- One plan for all batches, which reads by index however small the tables are when it is made.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    valid    integer[];  -- the endpoints that are as the caller knows them
    repeats  integer[];  -- the deliveries to accept,
    holders  text[];     -- the one that has the key of each,
    waits    boolean[];  -- and whether that one waits for its deployment
    followed integer[];  -- images that an application may follow
    there    jsonb;      -- what is subscribed at the paths of the others, where the caller does not know that
BEGIN
    -- Whoever deletes an endpoint locks it first, then its keys: it is not waited for.
    SELECT array_agg(number::integer)
      INTO valid
      FROM unnest(endpoint_ids, endpoint_versions) WITH ORDINALITY AS k (endpoint_id, version, number)
     CROSS JOIN LATERAL (
           SELECT xmin::text AS there FROM endpoints e WHERE e.endpoint_id = k.endpoint_id FOR KEY SHARE SKIP LOCKED
           ) AS e
     WHERE there = version;

    SELECT coalesce(array_agg(number::integer), '{}'), array_agg(holder), array_agg(waits)
      INTO repeats, holders, waits
      FROM (
           SELECT d.number, k.delivery_id AS holder,
                  may_repeat AND EXISTS (
                      SELECT FROM deployment_deliveries
                        JOIN deployments USING (deployment_id)
                       WHERE delivery_id = k.delivery_id AND status = 'queued'
                  ) AS waits
             FROM unnest(delivery_ids, delivery_endpoints, keys, key_windows, may_repeat)
                  WITH ORDINALITY AS d (delivery_id, endpoint, key, key_window, may_repeat, number)
             JOIN delivery_keys k ON k.endpoint_id = endpoint_ids[d.endpoint] AND k.key = d.key
            WHERE d.endpoint = ANY(valid) AND k.delivery_id <> d.delivery_id
              AND (key_window IS NULL OR abs(extract(epoch FROM now() - seen_at)) <= key_window)
           ) AS r
     WHERE waits OR (
               NOT EXISTS (SELECT FROM deployment_deliveries l WHERE l.delivery_id = holder)
           AND NOT EXISTS (SELECT FROM deliveries d WHERE d.delivery_id = holder AND ended <> '{}')
           );
    IF repeats = '{}' THEN
        RETURN;
    END IF;

    followed := ARRAY(
        SELECT number
          FROM unnest(image_repositories, image_tags) WITH ORDINALITY AS i (repository, tag, number)
         WHERE EXISTS (
                   SELECT FROM subscriptions s
                     JOIN applications a USING (application_id)
                    WHERE s.repository = i.repository AND s.tag = i.tag AND a.desired <> 'deleted' AND a.auto_deploy
               )
            OR EXISTS (SELECT FROM subscriptions s WHERE s.repository = i.repository AND s.tag = '')
            OR EXISTS (
                   SELECT FROM deployments d
                    WHERE d.reference = i.repository || ':' || i.tag AND d.status IN ('queued', 'running')
                      AND d.image IS NOT NULL AND d.moves_subscription
               )
    );

    SELECT coalesce(jsonb_object_agg(number, there) FILTER (WHERE there <> image_subscribed[number]), '{}')
      INTO there
      FROM unnest(image_repositories) WITH ORDINALITY AS i (repository, number)
     CROSS JOIN LATERAL (SELECT substr(repository, strpos(repository, '/') + 1) AS path) AS p
     CROSS JOIN LATERAL (
           SELECT CASE WHEN EXISTS (
                       SELECT FROM subscriptions WHERE substr(repository, strpos(repository, '/') + 1) = path
                  ) THEN subscribed_at(path) ELSE '' END AS there
           ) AS t
     WHERE number <> ALL(followed);

    RETURN QUERY
    WITH repeated AS MATERIALIZED (
        SELECT r.number, holder, waits, CASE WHEN NOT waits THEN changed END AS changed
          FROM unnest(repeats, holders, waits) AS r (number, holder, waits)
         CROSS JOIN LATERAL (
               SELECT coalesce(bool_or(image = ANY(followed)), false) AS is_followed,
                      jsonb_object_agg(image, there -> image::text) FILTER (WHERE there ? image::text) AS changed
                 FROM unnest(push_deliveries, push_images) AS p (delivery, image)
                WHERE delivery = r.number
               ) AS of_images
         WHERE waits OR NOT is_followed
    ),
    stored AS (
        INSERT INTO deliveries (delivery_id, endpoint_id, source, headers, body, verdict, ignored, duplicate_of)
        SELECT delivery_ids[number], endpoint_ids[delivery_endpoints[number]],
               endpoint_sources[delivery_endpoints[number]], headers[delivery_headers[number]], bodies[number],
               'duplicate',
               CASE WHEN waits OR all_unmatched[number] IS NULL THEN '[]'
               ELSE ('[' || all_unmatched[number] || ']')::jsonb END,
               holder
          FROM repeated
         WHERE changed IS NULL
    )
    SELECT number, CASE WHEN changed IS NULL THEN holder END, NOT waits, changed FROM repeated;
END
$$;

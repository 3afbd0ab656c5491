-- expands
-- Accepting many deliveries by one statement, in less time than `accept`, which gateways of earlier versions call.

-- Accept deliveries whose pushes deploy the image that an application is configured with, under its own tag, or
-- nothing.
-- The others are left as they are: `gateway.queue.ingest` decides them one by one.
--
-- Images are those that the deliveries name, each once; a push is one line of a delivery, and refers to both by number.
-- `image_names` are the ways in which people write an image, separated by blanks. `image_subscribed` is what
-- `subscribed_at` returned before: the reason why a push of the image deploys nothing, if so, was made from it.
-- `image_further` is the reason of a further push of its repository. Reasons, and what a delivery ignores anyway, are
-- parts of a JSON array. `key_windows` are in seconds.
--
-- The result has one line with the number 0 for all deliveries that were accepted and repeat none. `accepted` tells of
-- each whether it is one of them; null: all are. Then come the pairs of delivery and deployment, and the images that
-- nobody follows. There is a line for each delivery that repeats one, and for each that may be accepted if it is given
-- `again`: a follower was locked, or something else is subscribed by now (`subscribed`, by the numbers of images).
CREATE FUNCTION accept_2(
    delivery_ids text[], endpoint_ids text[], endpoint_versions text[], keys text[], key_windows double precision[],
    may_repeat boolean[], sources text[], all_headers text[], bodies bytea[], all_ignored text[],
    push_deliveries integer[], push_images integer[], push_digests text[],
    image_repositories text[], image_tags text[], image_names text[], image_subscribed text[], image_reasons text[],
    image_further text[]
) RETURNS TABLE (
    number integer, again boolean, duplicate_of text, subscribed jsonb, accepted boolean[], linked integer[],
    deployment_ids text[], application_ids text[], unfollowed integer[]
) LANGUAGE plpgsql
-- One plan for all batches, which reads by index however small the tables are when it is made.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
-- Deliveries wait together, so they wait for nobody else for long: each is decided by itself then.
SET lock_timeout = '100ms'
AS $$
#variable_conflict use_column
DECLARE
    valid_ids       text[];  -- the endpoints that are as the caller knows them
    claimed         text[];  -- the deliveries whose key is new
    held            integer[] := '{}';  -- deliveries that repeat one which has taken effect,
    held_by         text[] := '{}';     -- and that one
    follower_ids    text[] := '{}';  -- applications, once for each image that they follow
    follower_images integer[] := '{}';
    deployment_ids_ text[];  -- the queued deployment of each, or a new one
    is_new          boolean[];
    followed        integer[] := '{}';  -- images that an application follows
    busy            integer[] := '{}';  -- images whose followers are locked
    undecided       integer[] := '{}';  -- images that are not for this function
    lonely          integer[] := '{}';  -- images that no application follows,
    lonely_there    text[] := '{}';     -- and what is subscribed at their paths,
    unknown         integer[] := '{}';  -- those of them of which the caller does not know that
    left_out        integer[] := '{}';  -- deliveries that are not decided
    taken           boolean[];  -- of each delivery, whether it is accepted and repeats none; null: all
BEGIN
    -- Whoever deletes an endpoint locks it first, then its keys: it is not waited for. Keys are claimed in one order.
    WITH endpoint AS MATERIALIZED (
        SELECT endpoint_id, xmin::text AS version
          FROM endpoints
         WHERE endpoint_id = ANY(endpoint_ids)
         ORDER BY endpoint_id
           FOR KEY SHARE SKIP LOCKED
    ),
    valid AS MATERIALIZED (
        SELECT endpoint_id
          FROM endpoint
          JOIN (SELECT DISTINCT * FROM unnest(endpoint_ids, endpoint_versions) AS known (endpoint_id, version)) AS known
         USING (endpoint_id, version)
    ),
    claimed_key AS (
        INSERT INTO delivery_keys (endpoint_id, key, delivery_id)
        SELECT DISTINCT ON (endpoint_id, key) endpoint_id, key, delivery_id
          FROM unnest(endpoint_ids, keys, delivery_ids) WITH ORDINALITY AS d (endpoint_id, key, delivery_id, number)
         WHERE endpoint_id IN (SELECT endpoint_id FROM valid)
         ORDER BY endpoint_id, key, number
            ON CONFLICT (endpoint_id, key) DO NOTHING
        RETURNING delivery_id
    )
    SELECT ARRAY(SELECT endpoint_id FROM valid), ARRAY(SELECT delivery_id FROM claimed_key)
      INTO valid_ids, claimed;

    IF cardinality(claimed) < cardinality(delivery_ids) THEN
        SELECT coalesce(array_agg(d.number), '{}'), coalesce(array_agg(k.delivery_id), '{}')
          INTO held, held_by
          FROM unnest(delivery_ids, endpoint_ids, keys, key_windows, may_repeat)
               WITH ORDINALITY AS d (delivery_id, endpoint_id, key, key_window, may_repeat, number)
          JOIN delivery_keys k USING (endpoint_id, key)
         WHERE endpoint_id = ANY(valid_ids) AND k.delivery_id <> d.delivery_id AND NOT may_repeat
           AND (key_window IS NULL OR abs(extract(epoch FROM now() - seen_at)) <= key_window)
           AND (
                  k.delivery_id = ANY(claimed)  -- of this batch: looked at below
               OR EXISTS (
                      SELECT FROM deployment_deliveries
                        JOIN deployments USING (deployment_id)
                       WHERE delivery_id = k.delivery_id AND status NOT IN ('failed', 'rolled_back')
                  )
               OR EXISTS (
                      SELECT FROM deliveries, unnest(ended) AS ends
                       WHERE delivery_id = k.delivery_id AND ends NOT IN ('failed', 'rolled_back')
                  )
               );
    END IF;

    -- The queues of all followers are locked, without waiting for any. What only repeats has none.
    IF claimed <> '{}' THEN
        WITH image AS MATERIALIZED (
            SELECT * FROM unnest(image_repositories, image_tags) WITH ORDINALITY AS i (repository, tag, number)
        ),
        found AS MATERIALIZED (
            SELECT number, application_id, from_image
              FROM image i
             CROSS JOIN LATERAL (
                   SELECT application_id, from_image
                     FROM subscriptions s
                     JOIN applications a USING (application_id)
                    WHERE s.repository = i.repository AND s.tag = i.tag AND a.desired <> 'deleted' AND a.auto_deploy
                    LIMIT 101
                   ) AS f
        ),
        -- A batch delays nobody for an image that a crowd follows.
        crowd AS MATERIALIZED (
            SELECT number FROM found GROUP BY number HAVING count(*) > 100
        ),
        follower AS MATERIALIZED (
            SELECT * FROM found WHERE number NOT IN (SELECT number FROM crowd)
        ),
        locked AS MATERIALIZED (
            SELECT application_id
              FROM applications
             WHERE application_id IN (SELECT application_id FROM follower)
             ORDER BY application_id
               FOR NO KEY UPDATE SKIP LOCKED
        )
        SELECT ARRAY(SELECT application_id FROM follower ORDER BY number, application_id),
               ARRAY(SELECT number FROM follower ORDER BY number, application_id),
               ARRAY(SELECT DISTINCT number FROM found),
               ARRAY(
                   SELECT DISTINCT number FROM follower WHERE application_id NOT IN (SELECT application_id FROM locked)
               ),
               ARRAY(
                   SELECT number FROM crowd
                    UNION
                   SELECT number FROM follower WHERE NOT from_image
                    UNION
                   SELECT number
                     FROM image i
                    WHERE EXISTS (SELECT FROM subscriptions s WHERE s.repository = i.repository AND s.tag = '')
                       OR EXISTS (
                              SELECT FROM deployments d
                               WHERE d.reference = i.repository || ':' || i.tag AND d.status IN ('queued', 'running')
                                 AND d.image IS NOT NULL AND d.moves_subscription
                          )
               )
          INTO follower_ids, follower_images, followed, busy, undecided;

        -- Read the queues only now: who held a lock before may have changed them.
        IF follower_ids <> '{}' THEN
            SELECT array_agg(coalesce(q.deployment_id, gen_random_uuid()::text) ORDER BY f.number),
                   array_agg(q.deployment_id IS NULL ORDER BY f.number),
                   undecided || coalesce(array_agg(DISTINCT f.image) FILTER (WHERE NOT coalesce(
                           a.desired = 'running' AND a.auto_deploy
                       AND coalesce(q.image, r.image, a.docker_image) = ANY(string_to_array(image_names[f.image], ' '))
                       AND (q.deployment_id IS NULL OR (
                               q.kind IN ('deploy', 'redeploy', 'start')
                           AND coalesce(q.reference, w.reference) = w.reference
                           AND NOT q.moves_subscription
                           ))
                       AND (r.deployment_id IS NULL OR NOT r.moves_subscription),
                       false
                   )), '{}')
              INTO deployment_ids_, is_new, undecided
              FROM unnest(follower_ids, follower_images) WITH ORDINALITY AS f (application_id, image, number)
             CROSS JOIN LATERAL (SELECT image_repositories[f.image] || ':' || image_tags[f.image] AS reference) AS w
              LEFT JOIN applications a USING (application_id)
              -- Each queue is looked up: a plan from when all were empty would read all of them for each application.
              LEFT JOIN LATERAL (
                   SELECT * FROM deployments WHERE application_id = f.application_id AND status = 'queued' OFFSET 0
              ) AS q ON true
              LEFT JOIN LATERAL (
                   SELECT * FROM deployments WHERE application_id = f.application_id AND status = 'running' OFFSET 0
              ) AS r ON true;
        END IF;

        IF NOT push_images <@ followed THEN
            SELECT array_agg(image), array_agg(there), array_agg(image) FILTER (WHERE there <> image_subscribed[image])
              INTO lonely, lonely_there, unknown
              FROM unnest(image_repositories) WITH ORDINALITY AS i (name, image)
             CROSS JOIN LATERAL (SELECT substr(name, strpos(name, '/') + 1) AS path) AS p
             CROSS JOIN LATERAL (
                   -- Most often nothing is subscribed there.
                   SELECT CASE WHEN EXISTS (
                               SELECT FROM subscriptions WHERE substr(repository, strpos(repository, '/') + 1) = path
                          ) THEN subscribed_at(path) ELSE '' END AS there
                   ) AS t
             WHERE image <> ALL(followed);
            unknown := coalesce(unknown, '{}');
        END IF;

        -- A delivery is decided as a whole. Those that are not leave nothing.
        IF busy <> '{}' OR undecided <> '{}' OR unknown <> '{}' THEN
            SELECT coalesce(array_agg(DISTINCT delivery), '{}')
              INTO left_out
              FROM unnest(push_deliveries, push_images) AS p (delivery, image)
             WHERE image = ANY(busy || undecided || unknown);
            DELETE FROM delivery_keys k
             USING unnest(left_out) AS l (number)
             WHERE k.endpoint_id = endpoint_ids[l.number] AND k.key = keys[l.number]
               AND k.delivery_id = delivery_ids[l.number];
            RETURN QUERY
            SELECT delivery, true, NULL::text,
                   jsonb_object_agg(image, lonely_there[array_position(lonely, image)])
                       FILTER (WHERE image = ANY(unknown)),
                   NULL::boolean[], NULL::integer[], NULL::text[], NULL::text[], NULL::integer[]
              FROM unnest(push_deliveries, push_images) AS p (delivery, image)
             WHERE delivery = ANY(left_out) AND delivery_ids[delivery] = ANY(claimed)
             GROUP BY delivery
            HAVING bool_and(image <> ALL(undecided));
        END IF;

        IF left_out <> '{}' OR cardinality(claimed) < cardinality(delivery_ids) THEN
            taken := ARRAY(
                SELECT delivery_id = ANY(claimed) AND number <> ALL(left_out)
                  FROM unnest(delivery_ids) WITH ORDINALITY AS d (delivery_id, number)
                 ORDER BY number
            );
        END IF;

        RETURN QUERY
        WITH link AS MATERIALIZED (
            SELECT delivery, application_id, deployment_id, is_new, image, digest, place
              FROM unnest(push_deliveries, push_images, push_digests)
                   WITH ORDINALITY AS p (delivery, image, digest, place)
              JOIN unnest(follower_ids, follower_images, deployment_ids_, is_new)
                   AS f (application_id, image, deployment_id, is_new)
             USING (image)
             WHERE coalesce(taken[delivery], true)
        ),
        target AS MATERIALIZED (
            SELECT application_id, deployment_id, is_new,
                   image_repositories[image] || ':' || image_tags[image] AS reference,
                   (array_agg(digest ORDER BY place DESC) FILTER (WHERE digest IS NOT NULL))[1] AS digest
              FROM link
             GROUP BY application_id, deployment_id, is_new, image
        ),
        inserted AS (
            INSERT INTO deployments (
                deployment_id, application_id, kind, forced, title, reference, expected_digest, image
            )
            SELECT deployment_id, application_id, 'deploy', false, reference || ' pushed', reference, digest, reference
              FROM target
             WHERE is_new
        ),
        joined AS (
            UPDATE deployments d
               SET kind = CASE d.kind WHEN 'start' THEN 'deploy' ELSE d.kind END, reference = t.reference,
                   expected_digest = coalesce(t.digest, d.expected_digest), image = t.reference,
                   requested_at = now(), next_attempt_at = now(), wait_length = '0 seconds', attempts = 0,
                   takeovers = 0, defects = 0, cancelled_at = NULL, reason_code = NULL, reason_message = NULL
              FROM target t
             WHERE d.deployment_id = t.deployment_id AND NOT t.is_new
        ),
        stored AS (
            INSERT INTO deliveries (delivery_id, endpoint_id, source, headers, body, verdict, ignored)
            SELECT delivery_id, endpoint_id, source, headers::jsonb, body,
                   (CASE WHEN number IN (SELECT delivery FROM link) THEN 'queued' ELSE 'ignored' END)::verdict,
                   ('[' || concat_ws(',', ignored, reasons) || ']')::jsonb
              FROM unnest(delivery_ids, endpoint_ids, sources, all_headers, bodies, all_ignored)
                   WITH ORDINALITY AS d (delivery_id, endpoint_id, source, headers, body, ignored, number)
              LEFT JOIN (
                   SELECT number, string_agg(reason, ',' ORDER BY place) AS reasons
                     FROM (
                          SELECT delivery AS number, place,
                                 CASE row_number() OVER again WHEN 1 THEN image_reasons[image]
                                 ELSE image_further[image] END AS reason
                            FROM unnest(push_deliveries, push_images) WITH ORDINALITY AS p (delivery, image, place)
                           WHERE image = ANY(lonely)
                          WINDOW again AS (PARTITION BY delivery, image_repositories[image] ORDER BY place)
                          ) AS l
                    GROUP BY number
                   ) AS r
             USING (number)
             WHERE coalesce(taken[number], true)
        ),
        linked AS (
            INSERT INTO deployment_deliveries (delivery_id, deployment_id)
            SELECT delivery_ids[delivery], deployment_id FROM link
        )
        SELECT 0, false, NULL::text, NULL::jsonb, taken,
               array_agg(delivery ORDER BY delivery, is_new, application_id),
               array_agg(deployment_id ORDER BY delivery, is_new, application_id),
               array_agg(application_id ORDER BY delivery, is_new, application_id), lonely
          FROM link;
    END IF;

    IF held <> '{}' THEN
        RETURN QUERY
        WITH repeated AS MATERIALIZED (
            SELECT number, holder
              FROM unnest(held, held_by) AS h (number, holder)
             WHERE holder <> ALL(claimed)
                OR EXISTS (SELECT FROM deployment_deliveries l WHERE l.delivery_id = holder)
        ),
        stored AS (
            INSERT INTO deliveries (delivery_id, endpoint_id, source, headers, body, verdict, duplicate_of)
            SELECT delivery_ids[number], endpoint_ids[number], sources[number], all_headers[number]::jsonb,
                   bodies[number], 'duplicate', holder
              FROM repeated
        )
        SELECT number, false, holder, NULL::jsonb, NULL::boolean[], NULL::integer[], NULL::text[], NULL::text[],
               NULL::integer[]
          FROM repeated;
    END IF;
END
$$;

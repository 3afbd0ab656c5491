-- expands
-- Accepting many deliveries in less of PostgreSQL's time than `accept_2` does, which gateways of earlier versions call.

-- What is inserted later comes later in these indexes, so that pages fill up and are not split in halves. They are read
-- backwards. Of parts of the inbox that exist, only the newest one gets them.
DROP INDEX deliveries_newest;
DROP INDEX deliveries_of_endpoint;
DROP INDEX deliveries_of_source;
DROP INDEX deliveries_of_verdict;
CREATE INDEX deliveries_newest ON deliveries (received_at, delivery_id);
CREATE INDEX deliveries_of_endpoint ON deliveries (endpoint_id, verdict, received_at, delivery_id);
CREATE INDEX deliveries_of_source ON deliveries (source, verdict, received_at, delivery_id);
CREATE INDEX deliveries_of_verdict ON deliveries (verdict, received_at, delivery_id);

-- Accept deliveries whose pushes deploy the image that an application is configured with, under its own tag, or
-- nothing. The others are left as they are: `gateway.queue.ingest` decides them one by one.
--
-- Endpoints, headers and images are those of the deliveries, each once; deliveries and pushes refer to them by number.
-- A push is one line of a delivery. `key_order` has the first delivery of each key, in one order of all keys.
-- `image_names` are the ways in which people write an image, separated by blanks. `image_subscribed` is what
-- `subscribed_at` returned before: the reason why a push of the image deploys nothing, if so, was made from it.
-- `image_further` is the reason of a further push of its repository. Reasons, and what a delivery ignores anyway, are
-- parts of a JSON array; `all_unmatched` is what it ignores where all its pushes deploy nothing. `key_windows` are in
-- seconds. `push_digests` is empty where no push has one.
--
-- The result has one line with the number 0 for all deliveries that were accepted and repeat none. `accepted` tells of
-- each whether it is one of them; null: all are. Then come the pairs of delivery and deployment, and the images that
-- nobody follows. There is a line for each delivery that repeats one, and for each that may be accepted if it is given
-- `again`: a follower was locked, or something else is subscribed by now (`subscribed`, by the numbers of images).
--
-- Each statement is small: to begin and end one with many parts takes longer than to run it for one delivery.
CREATE FUNCTION accept_3(
    endpoint_ids text[], endpoint_versions text[], endpoint_sources text[], headers jsonb[],
    delivery_ids text[], delivery_endpoints integer[], delivery_headers integer[], keys text[],
    key_windows double precision[], may_repeat boolean[], bodies bytea[], all_ignored text[], all_unmatched text[],
    key_order integer[], push_deliveries integer[], push_images integer[], push_digests text[],
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
    valid             integer[];  -- the endpoints that are as the caller knows them
    claimed           text[];  -- the deliveries whose key is new
    held              integer[] := '{}';  -- deliveries that repeat one which has taken effect,
    held_by           text[] := '{}';     -- and that one
    follower_ids      text[];  -- applications, once for each image that they follow
    follower_images   integer[];
    locked            text[];
    follower_queues   text[];  -- the queued deployment of each, or a new one
    is_new            boolean[];
    follower_digests  text[];
    crowd             integer[];  -- images that too many applications follow
    busy              integer[] := '{}';  -- images whose followers are locked
    undecided         integer[];  -- images that are not for this function
    lonely            integer[];  -- images that no application follows,
    lonely_there      text[] := '{}';     -- and what is subscribed at their paths,
    unknown           integer[] := '{}';  -- those of them of which the caller does not know that
    left_out          integer[] := '{}';  -- deliveries that are not decided
    taken             boolean[];  -- of each delivery, whether it is accepted and repeats none; null: all
    link_deliveries   integer[] := '{}';  -- deliveries that deploy something,
    link_followers    integer[] := '{}';  -- and the followers of each
    link_queues       text[];
    link_applications text[];
    ignored_parts     text[];
BEGIN
    -- Whoever deletes an endpoint locks it first, then its keys: it is not waited for.
    SELECT array_agg(number::integer)
      INTO valid
      FROM unnest(endpoint_ids, endpoint_versions) WITH ORDINALITY AS k (endpoint_id, version, number)
     CROSS JOIN LATERAL (
           SELECT xmin::text AS there FROM endpoints e WHERE e.endpoint_id = k.endpoint_id FOR KEY SHARE SKIP LOCKED
           ) AS e
     WHERE there = version;

    WITH claimed_key AS (
        INSERT INTO delivery_keys (endpoint_id, key, delivery_id)
        SELECT endpoint_ids[delivery_endpoints[place]], keys[place], delivery_ids[place]
          FROM unnest(key_order) AS o (place)
         WHERE delivery_endpoints[place] = ANY(valid)
            ON CONFLICT (endpoint_id, key) DO NOTHING
        RETURNING delivery_id
    )
    SELECT coalesce(array_agg(delivery_id), '{}') INTO claimed FROM claimed_key;

    IF cardinality(claimed) < cardinality(delivery_ids) THEN
        SELECT coalesce(array_agg(d.number), '{}'), coalesce(array_agg(k.delivery_id), '{}')
          INTO held, held_by
          FROM unnest(delivery_ids, delivery_endpoints, keys, key_windows, may_repeat)
               WITH ORDINALITY AS d (delivery_id, endpoint, key, key_window, may_repeat, number)
          JOIN delivery_keys k ON k.endpoint_id = endpoint_ids[d.endpoint] AND k.key = d.key
         WHERE d.endpoint = ANY(valid) AND k.delivery_id <> d.delivery_id AND NOT may_repeat
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

    -- What only repeats has no followers.
    IF claimed <> '{}' THEN
        SELECT coalesce(array_agg(application_id) FILTER (WHERE application_id IS NOT NULL), '{}'),
               coalesce(array_agg(image) FILTER (WHERE application_id IS NOT NULL), '{}'),
               coalesce(array_agg(image) FILTER (WHERE application_id IS NULL), '{}'),
               coalesce(array_agg(image) FILTER (WHERE NOT from_image OR is_special), '{}')
          INTO follower_ids, follower_images, lonely, undecided
          FROM (
               SELECT number::integer AS image, application_id, from_image,
                      EXISTS (SELECT FROM subscriptions s WHERE s.repository = i.repository AND s.tag = '')
                      OR EXISTS (
                             SELECT FROM deployments d
                              WHERE d.reference = i.repository || ':' || i.tag AND d.status IN ('queued', 'running')
                                AND d.image IS NOT NULL AND d.moves_subscription
                         ) AS is_special
                 FROM unnest(image_repositories, image_tags) WITH ORDINALITY AS i (repository, tag, number)
                 LEFT JOIN LATERAL (
                      SELECT application_id, from_image
                        FROM subscriptions s
                        JOIN applications a USING (application_id)
                       WHERE s.repository = i.repository AND s.tag = i.tag AND a.desired <> 'deleted' AND a.auto_deploy
                       LIMIT 101
                      ) AS f ON true
               ) AS found;

        -- A batch delays nobody for an image that a crowd follows.
        IF cardinality(follower_ids) > 100 THEN
            crowd := ARRAY(SELECT image FROM unnest(follower_images) AS f (image) GROUP BY image HAVING count(*) > 100);
            SELECT coalesce(array_agg(application_id), '{}'), coalesce(array_agg(image), '{}')
              INTO follower_ids, follower_images
              FROM unnest(follower_ids, follower_images) AS f (application_id, image)
             WHERE image NOT IN (SELECT unnest(crowd));
            undecided := undecided || crowd;
        END IF;

        -- The queues of all followers are locked, without waiting for any, and read only then: who held a lock before
        -- may have changed them.
        IF follower_ids <> '{}' THEN
            SELECT coalesce(array_agg(application_id), '{}')
              INTO locked
              FROM (
                   SELECT application_id
                     FROM applications
                    WHERE application_id = ANY(follower_ids)
                    ORDER BY application_id
                      FOR NO KEY UPDATE SKIP LOCKED
                   ) AS l;
            IF cardinality(locked) < cardinality(follower_ids) THEN
                busy := ARRAY(
                    SELECT DISTINCT image
                      FROM unnest(follower_ids, follower_images) AS f (application_id, image)
                     WHERE application_id NOT IN (SELECT unnest(locked))
                );
            END IF;

            SELECT array_agg(f.application_id), array_agg(f.image),
                   array_agg(coalesce(q.deployment_id, gen_random_uuid()::text)), array_agg(q.deployment_id IS NULL),
                   undecided || coalesce(array_agg(f.image) FILTER (WHERE NOT coalesce(
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
              INTO follower_ids, follower_images, follower_queues, is_new, undecided
              FROM unnest(follower_ids, follower_images) AS f (application_id, image)
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

        IF lonely <> '{}' THEN
            SELECT array_agg(image), array_agg(there),
                   coalesce(array_agg(image) FILTER (WHERE there <> image_subscribed[image]), '{}')
              INTO lonely, lonely_there, unknown
              FROM unnest(lonely) AS l (image)
             CROSS JOIN LATERAL (
                   SELECT substr(image_repositories[image], strpos(image_repositories[image], '/') + 1) AS path
                   ) AS p
             CROSS JOIN LATERAL (
                   -- Most often nothing is subscribed there.
                   SELECT CASE WHEN EXISTS (
                               SELECT FROM subscriptions WHERE substr(repository, strpos(repository, '/') + 1) = path
                          ) THEN subscribed_at(path) ELSE '' END AS there
                   ) AS t;
        END IF;

        -- A delivery is decided as a whole. Those that are not leave nothing.
        IF busy <> '{}' OR undecided <> '{}' OR unknown <> '{}' THEN
            SELECT coalesce(array_agg(DISTINCT delivery), '{}')
              INTO left_out
              FROM unnest(push_deliveries, push_images) AS p (delivery, image)
             WHERE image IN (SELECT unnest(busy || undecided || unknown));
            DELETE FROM delivery_keys k
             USING unnest(left_out) AS l (number)
             WHERE k.endpoint_id = endpoint_ids[delivery_endpoints[l.number]] AND k.key = keys[l.number]
               AND k.delivery_id = delivery_ids[l.number];
            RETURN QUERY
            SELECT delivery, true, NULL::text,
                   jsonb_object_agg(image, lonely_there[array_position(lonely, image)])
                       FILTER (WHERE image = ANY(unknown)),
                   NULL::boolean[], NULL::integer[], NULL::text[], NULL::text[], NULL::integer[]
              FROM unnest(push_deliveries, push_images) AS p (delivery, image)
             WHERE delivery = ANY(left_out) AND delivery_ids[delivery] = ANY(claimed)
             GROUP BY delivery
            HAVING bool_and(image NOT IN (SELECT unnest(undecided)));
        END IF;

        IF left_out <> '{}' OR cardinality(claimed) < cardinality(delivery_ids) THEN
            taken := ARRAY(
                SELECT delivery_id = ANY(claimed) AND number <> ALL(left_out)
                  FROM unnest(delivery_ids) WITH ORDINALITY AS d (delivery_id, number)
                 ORDER BY number
            );
        END IF;

        IF follower_ids <> '{}' THEN
            SELECT array_agg(delivery), array_agg(follower), array_agg(queue), array_agg(application_id)
              INTO link_deliveries, link_followers, link_queues, link_applications
              FROM (
                   SELECT delivery, follower::integer, queue, application_id
                     FROM unnest(push_deliveries, push_images) AS p (delivery, image)
                     JOIN unnest(follower_ids, follower_images, follower_queues, is_new)
                          WITH ORDINALITY AS f (application_id, image, queue, is_new, follower)
                    USING (image)
                    WHERE coalesce(taken[delivery], true)
                    ORDER BY delivery, is_new, application_id
                   ) AS link;
            link_deliveries := coalesce(link_deliveries, '{}');
            link_followers := coalesce(link_followers, '{}');

            IF push_digests <> '{}' THEN  -- the last one that names it
                follower_digests := ARRAY(
                    SELECT digest
                      FROM unnest(follower_images) WITH ORDINALITY AS f (image, number)
                      LEFT JOIN (
                           SELECT DISTINCT ON (image) image, digest
                             FROM unnest(push_deliveries, push_images, push_digests)
                                  WITH ORDINALITY AS p (delivery, image, digest, place)
                            WHERE digest IS NOT NULL AND coalesce(taken[delivery], true)
                            ORDER BY image, place DESC
                           ) AS p
                     USING (image)
                     ORDER BY number
                );
            END IF;

            IF true = ANY(is_new) THEN
                INSERT INTO deployments (
                    deployment_id, application_id, kind, forced, title, reference, expected_digest, image
                )
                SELECT queue, application_id, 'deploy', false, reference || ' pushed', reference, digest, reference
                  FROM unnest(follower_queues, follower_ids, follower_images, is_new, follower_digests)
                       WITH ORDINALITY AS f (queue, application_id, image, is_new, digest, number)
                 CROSS JOIN LATERAL (SELECT image_repositories[image] || ':' || image_tags[image] AS reference) AS w
                 WHERE is_new AND (taken IS NULL OR number IN (SELECT unnest(link_followers)));
            END IF;
            IF false = ANY(is_new) THEN
                UPDATE deployments d
                   SET kind = CASE d.kind WHEN 'start' THEN 'deploy' ELSE d.kind END, reference = w.reference,
                       expected_digest = coalesce(f.digest, d.expected_digest), image = w.reference,
                       requested_at = now(), next_attempt_at = now(), wait_length = '0 seconds', attempts = 0,
                       takeovers = 0, defects = 0, cancelled_at = NULL, reason_code = NULL, reason_message = NULL
                  FROM unnest(follower_queues, follower_images, is_new, follower_digests)
                       WITH ORDINALITY AS f (queue, image, is_new, digest, number)
                 CROSS JOIN LATERAL (SELECT image_repositories[f.image] || ':' || image_tags[f.image] AS reference) AS w
                 WHERE d.deployment_id = f.queue AND NOT f.is_new
                   AND (taken IS NULL OR f.number IN (SELECT unnest(link_followers)));
            END IF;
            INSERT INTO deployment_deliveries (delivery_id, deployment_id)
            SELECT delivery_ids[delivery], queue FROM unnest(link_deliveries, link_queues) AS l (delivery, queue);
        END IF;

        IF lonely = '{}' THEN
            ignored_parts := all_ignored;
        ELSIF link_deliveries = '{}' THEN  -- what is taken has no other pushes
            ignored_parts := all_unmatched;
        ELSE
            ignored_parts := ARRAY(
                SELECT nullif(concat_ws(',', ignored, reasons), '')
                  FROM unnest(all_ignored) WITH ORDINALITY AS d (ignored, number)
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
                 ORDER BY number
            );
        END IF;

        INSERT INTO deliveries (delivery_id, endpoint_id, source, headers, body, verdict, ignored)
        SELECT delivery_id, endpoint_ids[endpoint], endpoint_sources[endpoint], headers[header], body,
               (CASE WHEN number IN (SELECT unnest(link_deliveries)) THEN 'queued' ELSE 'ignored' END)::verdict,
               CASE WHEN ignored IS NULL THEN '[]' ELSE ('[' || ignored || ']')::jsonb END
          FROM unnest(delivery_ids, delivery_endpoints, delivery_headers, bodies, ignored_parts)
               WITH ORDINALITY AS d (delivery_id, endpoint, header, body, ignored, number)
         WHERE coalesce(taken[number], true);

        number := 0;
        again := false;
        accepted := taken;
        linked := link_deliveries;
        deployment_ids := link_queues;
        application_ids := link_applications;
        unfollowed := lonely;
        RETURN NEXT;
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
            SELECT delivery_ids[number], endpoint_ids[delivery_endpoints[number]],
                   endpoint_sources[delivery_endpoints[number]], headers[delivery_headers[number]], bodies[number],
                   'duplicate', holder
              FROM repeated
        )
        SELECT number, false, holder, NULL::jsonb, NULL::boolean[], NULL::integer[], NULL::text[], NULL::text[],
               NULL::integer[]
          FROM repeated;
    END IF;
END
$$;

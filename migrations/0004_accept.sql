-- expands
-- Accepting many deliveries by one statement.

-- == Rows of the inbox refer to others without foreign keys, whose checks cost more than the rows themselves

ALTER TABLE deliveries
    DROP CONSTRAINT deliveries_endpoint_id_fkey,
    DROP CONSTRAINT deliveries_duplicate_of_fkey,
    DROP CONSTRAINT deliveries_replay_of_fkey;
ALTER TABLE delivery_keys
    DROP CONSTRAINT delivery_keys_endpoint_id_fkey,
    DROP CONSTRAINT delivery_keys_delivery_id_fkey;
ALTER TABLE deployment_deliveries
    DROP CONSTRAINT deployment_deliveries_deployment_id_fkey,
    DROP CONSTRAINT deployment_deliveries_delivery_id_fkey;

-- What refers to a deleted row is deleted or cleared with it, by one statement for all rows.
CREATE FUNCTION deliveries_leave_nothing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM delivery_keys WHERE delivery_id IN (SELECT delivery_id FROM gone);
    DELETE FROM deployment_deliveries WHERE delivery_id IN (SELECT delivery_id FROM gone);
    UPDATE deliveries SET duplicate_of = NULL WHERE duplicate_of IN (SELECT delivery_id FROM gone);
    UPDATE deliveries SET replay_of = NULL WHERE replay_of IN (SELECT delivery_id FROM gone);
    RETURN NULL;
END
$$;

CREATE TRIGGER leave_nothing AFTER DELETE ON deliveries REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION deliveries_leave_nothing();

CREATE FUNCTION deployments_leave_no_links() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM deployment_deliveries WHERE deployment_id IN (SELECT deployment_id FROM gone);
    RETURN NULL;
END
$$;

CREATE TRIGGER leave_no_links AFTER DELETE ON deployments REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION deployments_leave_no_links();

CREATE FUNCTION endpoints_leave_their_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM delivery_keys WHERE endpoint_id IN (SELECT endpoint_id FROM gone);
    UPDATE deliveries SET endpoint_id = NULL WHERE endpoint_id IN (SELECT endpoint_id FROM gone);
    RETURN NULL;
END
$$;

CREATE TRIGGER leave_their_deliveries AFTER DELETE ON endpoints REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION endpoints_leave_their_deliveries();

-- == Lists of subscriptions: of one application, and of all

CREATE INDEX subscriptions_of_application ON subscriptions (application_id, created_at DESC, subscription_id DESC);
CREATE INDEX subscriptions_newest ON subscriptions (created_at DESC, subscription_id DESC);

-- == A push that joins a queued deployment changes its row alone, not an index

ALTER TABLE deployments SET (fillfactor = 80);
DROP INDEX deployments_queue;
DROP INDEX deployments_pending;
-- For the claim, the queue and lists of it: few rows, whose order is sorted.
CREATE INDEX deployments_pending ON deployments (created_at, deployment_id) WHERE status IN ('queued', 'running');

-- == Accept

-- What subscribes to this path, at any registry: a few [repository, rule, pattern]; '' where nothing does.
CREATE FUNCTION subscribed_at(path text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_agg(DISTINCT line)::text, '')
      FROM (
           SELECT jsonb_build_array(s.repository, s.rule, s.pattern) AS line
             FROM subscriptions s
             JOIN applications a USING (application_id)
            WHERE substr(s.repository, strpos(s.repository, '/') + 1) = path
              AND a.desired <> 'deleted' AND a.auto_deploy
            LIMIT 20
           ) AS lines
$$;

-- Accept deliveries whose pushes deploy the image that an application is configured with, under its own tag, or nothing.
-- The others are left as they are: `gateway.queue.ingest` decides them one by one.
--
-- Images are those that the deliveries name, each once; a push is one line of a delivery, and refers to both by number.
-- `image_names` are the ways in which people write an image, separated by blanks. `image_subscribed` is what
-- `subscribed_at` returned before: the reason why an image deploys nothing was made from it.
--
-- The result has a line for each delivery that was accepted, and for each that may be accepted if it is given `again`: a
-- follower was locked, or something else is subscribed by now (`subscribed`, by the numbers of images).
CREATE FUNCTION accept(
    delivery_ids text[], endpoint_ids text[], endpoint_versions text[], keys text[], key_windows interval[],
    may_repeat boolean[], sources text[], all_headers jsonb[], bodies bytea[], all_ignored text[],
    push_deliveries integer[], push_images integer[], push_digests text[],
    image_repositories text[], image_tags text[], image_names text[], image_subscribed text[], image_reasons text[],
    further_reason text
) RETURNS TABLE (
    number integer, verdict verdict, again boolean, duplicate_of text, deployment_ids text[], application_ids text[],
    ignored jsonb, subscribed jsonb
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
    follower_ids    text[];  -- applications, once for each image that they follow
    follower_images integer[];
    deployment_ids_ text[];  -- the queued deployment of each, or a new one
    is_new          boolean[];
    followed        integer[];  -- images that an application follows
    busy            integer[];  -- images whose followers are locked
    undecided       integer[];  -- images that are not for this function
    lonely          integer[] := '{}';  -- images that no application follows,
    lonely_there    text[] := '{}';     -- and what is subscribed at their paths
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
           AND (key_window IS NULL OR seen_at BETWEEN now() - key_window AND now() + key_window)
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

    -- The queues of all followers are locked, without waiting for any.
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
        SELECT array_agg(image), array_agg(subscribed_at(substr(repository, strpos(repository, '/') + 1)))
          INTO lonely, lonely_there
          FROM unnest(image_repositories) WITH ORDINALITY AS i (repository, image)
         WHERE image <> ALL(followed);
    END IF;

    RETURN QUERY
    WITH delivery AS MATERIALIZED (
        SELECT number::integer, delivery_id, endpoint_id, key, source, headers, body, ignored,
               delivery_id = ANY(claimed) AS is_first
          FROM unnest(delivery_ids, endpoint_ids, keys, sources, all_headers, bodies, all_ignored)
               WITH ORDINALITY AS d (delivery_id, endpoint_id, key, source, headers, body, ignored, number)
    ),
    push AS MATERIALIZED (
        SELECT *
          FROM unnest(push_deliveries, push_images, push_digests) WITH ORDINALITY AS p (delivery, image, digest, place)
    ),
    follower AS MATERIALIZED (
        SELECT *
          FROM unnest(follower_ids, follower_images, deployment_ids_, is_new)
            AS f (application_id, image, deployment_id, is_new)
    ),
    unmatched AS MATERIALIZED (
        SELECT * FROM unnest(lonely, lonely_there) AS l (image, subscribed)
    ),
    unknown AS MATERIALIZED (
        SELECT image, subscribed FROM unmatched WHERE subscribed <> image_subscribed[image]
    ),
    -- A delivery is decided as a whole.
    left_out AS MATERIALIZED (
        SELECT delivery, bool_and(image <> ALL(undecided)) AS again, jsonb_object_agg(image, subscribed)
                   FILTER (WHERE subscribed IS NOT NULL) AS subscribed
          FROM push
          LEFT JOIN unknown USING (image)
         WHERE image = ANY(undecided) OR image = ANY(busy) OR subscribed IS NOT NULL
         GROUP BY delivery
    ),
    fresh AS MATERIALIZED (
        SELECT * FROM delivery WHERE is_first AND number NOT IN (SELECT delivery FROM left_out)
    ),
    link AS MATERIALIZED (
        SELECT number, delivery_id, application_id, deployment_id, is_new, image, digest, place
          FROM fresh
          JOIN push ON delivery = number
          JOIN follower USING (image)
    ),
    repeated AS MATERIALIZED (
        SELECT d.number, d.delivery_id, d.endpoint_id, d.source, d.headers, d.body, h.holder
          FROM unnest(held, held_by) AS h (number, holder)
          JOIN delivery d USING (number)
         WHERE h.holder <> ALL(claimed) OR h.holder IN (SELECT delivery_id FROM link)
    ),
    caused AS MATERIALIZED (
        SELECT number, array_agg(deployment_id ORDER BY is_new, application_id) AS deployment_ids,
               array_agg(application_id ORDER BY is_new, application_id) AS application_ids
          FROM link
         GROUP BY number
    ),
    reason AS MATERIALIZED (
        SELECT delivery AS number,
               jsonb_agg(jsonb_build_object('reference', reference, 'reason', reason) ORDER BY place) AS reasons
          FROM (
               SELECT delivery, place, image_repositories[image] || ':' || image_tags[image] AS reference,
                      CASE WHEN row_number() OVER (PARTITION BY delivery, image_repositories[image] ORDER BY place) = 1
                           THEN image_reasons[image] ELSE further_reason END AS reason
                 FROM push
                WHERE image IN (SELECT image FROM unmatched)
               ) AS lonely
         GROUP BY delivery
    ),
    decided AS MATERIALIZED (
        SELECT number, delivery_id, endpoint_id, source, headers, body,
               (CASE WHEN deployment_ids IS NULL THEN 'ignored' ELSE 'queued' END)::verdict AS verdict,
               coalesce(ignored::jsonb, '[]') || coalesce(reasons, '[]') AS ignored, NULL::text AS duplicate_of, deployment_ids, application_ids
          FROM fresh
          LEFT JOIN caused USING (number)
          LEFT JOIN reason USING (number)
         UNION ALL
        SELECT number, delivery_id, endpoint_id, source, headers, body, 'duplicate', '[]', holder, NULL, NULL
          FROM repeated
    ),
    target AS MATERIALIZED (
        SELECT application_id, deployment_id, is_new, image_repositories[image] || ':' || image_tags[image] AS reference,
               (array_agg(digest ORDER BY place DESC) FILTER (WHERE digest IS NOT NULL))[1] AS digest
          FROM link
         GROUP BY application_id, deployment_id, is_new, image
    ),
    inserted AS (
        INSERT INTO deployments (deployment_id, application_id, kind, forced, title, reference, expected_digest, image)
        SELECT deployment_id, application_id, 'deploy', false, reference || ' pushed', reference, digest, reference
          FROM target
         WHERE is_new
    ),
    joined AS (
        UPDATE deployments d
           SET kind = CASE d.kind WHEN 'start' THEN 'deploy' ELSE d.kind END, reference = t.reference,
               expected_digest = coalesce(t.digest, d.expected_digest), image = t.reference,
               requested_at = now(), next_attempt_at = now(), wait_length = '0 seconds', attempts = 0, takeovers = 0,
               defects = 0, cancelled_at = NULL, reason_code = NULL, reason_message = NULL
          FROM target t
         WHERE d.deployment_id = t.deployment_id AND NOT t.is_new
    ),
    stored AS (
        INSERT INTO deliveries (delivery_id, endpoint_id, source, headers, body, verdict, ignored, duplicate_of)
        SELECT delivery_id, endpoint_id, source, headers, body, verdict, ignored, duplicate_of FROM decided
    ),
    linked AS (
        INSERT INTO deployment_deliveries (delivery_id, deployment_id) SELECT delivery_id, deployment_id FROM link
    ),
    released AS (
        DELETE FROM delivery_keys k
         USING delivery d
         WHERE d.is_first AND d.number IN (SELECT delivery FROM left_out)
           AND k.endpoint_id = d.endpoint_id AND k.key = d.key
    )
    SELECT number, verdict, false, duplicate_of, deployment_ids, application_ids, nullif(ignored, '[]'), NULL::jsonb
      FROM decided
     UNION ALL
    SELECT number, NULL, true, NULL, NULL, NULL, NULL, subscribed
      FROM left_out
      JOIN delivery ON number = delivery
     WHERE again AND is_first;
END
$$;

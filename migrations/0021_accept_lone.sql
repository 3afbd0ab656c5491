-- expands
-- Accepting a push that comes alone in less time than `accept_3` takes for a batch of one.

-- Accept one delivery of one push. What is done is the same as `accept_3` does, and so is the result. The arguments are
-- the only elements of those of `accept_3`; the numbers among them are 1, and have no names.
--
-- Where the delivery is a new one, and at most one application follows its image, statements about single rows take half
-- as long as those about the parts of a batch. Everything else is left to `accept_3`.
CREATE FUNCTION accept_lone(
    endpoint text, endpoint_version text, endpoint_source text, delivery_headers jsonb, delivery text, integer, integer,
    delivery_key text, delivery_window double precision, delivery_may_repeat boolean, delivery_body bytea,
    delivery_ignored text, delivery_unmatched text, integer, integer, integer, push_digest text,
    image_repository text, image_tag text, image_names text, image_subscribed text, image_reason text, image_further text
) RETURNS TABLE (
    number integer, again boolean, duplicate_of text, subscribed jsonb, accepted boolean[], linked integer[],
    deployment_ids text[], application_ids text[], unfollowed integer[]
) LANGUAGE plpgsql
-- The settings are those of `accept_3`.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
SET lock_timeout = '100ms'
AS $$
#variable_conflict use_column
DECLARE
    wanted      text := image_repository || ':' || image_tag;
    image_path  text := substr(image_repository, strpos(image_repository, '/') + 1);
    moves       boolean;  -- whether a deployment is about to let its application follow the image
    followers   text[];  -- two at most; null instead of one that is not configured with the image
    application record;
    queued      record;
    running     record;
    is_plain    boolean;
BEGIN
    <<lone>>
    BEGIN
        SELECT EXISTS (
                   SELECT FROM deployments
                    WHERE reference = wanted AND status IN ('queued', 'running') AND image IS NOT NULL
                      AND moves_subscription
               ),
               ARRAY(
                   SELECT CASE WHEN from_image THEN application_id END
                     FROM subscriptions
                    WHERE repository = image_repository AND tag IN (image_tag, '')
                    LIMIT 2
               )
          INTO moves, followers;
        EXIT lone WHEN moves OR cardinality(followers) > 1 OR followers = '{NULL}';

        PERFORM FROM endpoints
          WHERE endpoint_id = endpoint AND xmin::text = endpoint_version
            FOR KEY SHARE SKIP LOCKED;
        EXIT lone WHEN NOT FOUND;

        INSERT INTO delivery_keys (endpoint_id, key, delivery_id)
        VALUES (endpoint, delivery_key, delivery)
            ON CONFLICT (endpoint_id, key) DO NOTHING;
        EXIT lone WHEN NOT FOUND;

        IF followers <> '{}' THEN
            SELECT desired = 'running' AND auto_deploy AS follows, docker_image
              INTO application
              FROM applications
             WHERE application_id = followers[1]
               FOR NO KEY UPDATE SKIP LOCKED;
            SELECT deployment_id, kind, reference, image, moves_subscription
              INTO queued
              FROM deployments
             WHERE application_id = followers[1] AND status = 'queued';
            SELECT deployment_id, image, moves_subscription
              INTO running
              FROM deployments
             WHERE application_id = followers[1] AND status = 'running';
            is_plain := coalesce(
                application.follows
                AND coalesce(queued.image, running.image, application.docker_image)
                    = ANY(string_to_array(image_names, ' '))
                AND (queued.deployment_id IS NULL OR (
                        queued.kind IN ('deploy', 'redeploy', 'start')
                    AND coalesce(queued.reference, wanted) = wanted
                    AND NOT queued.moves_subscription
                    ))
                AND (running.deployment_id IS NULL OR NOT running.moves_subscription),
                false
            );
        ELSIF EXISTS (SELECT FROM subscriptions WHERE substr(repository, strpos(repository, '/') + 1) = image_path) THEN
            is_plain := subscribed_at(image_path) = image_subscribed;
        ELSE
            is_plain := image_subscribed = '';
        END IF;
        IF NOT is_plain THEN
            DELETE FROM delivery_keys WHERE endpoint_id = endpoint AND key = delivery_key;
            EXIT lone;
        END IF;

        IF followers = '{}' THEN
            linked := '{}';
            unfollowed := '{1}';
        ELSE
            IF queued.deployment_id IS NULL THEN
                INSERT INTO deployments (
                    deployment_id, application_id, kind, forced, title, reference, expected_digest, image
                )
                VALUES (
                    gen_random_uuid()::text, followers[1], 'deploy', false, wanted || ' pushed', wanted, push_digest,
                    wanted
                )
                RETURNING ARRAY[deployment_id] INTO deployment_ids;
            ELSE
                UPDATE deployments
                   SET kind = CASE kind WHEN 'start' THEN 'deploy' ELSE kind END, reference = wanted,
                       expected_digest = coalesce(push_digest, expected_digest), image = wanted,
                       requested_at = now(), next_attempt_at = now(), wait_length = '0 seconds', attempts = 0,
                       takeovers = 0, defects = 0, cancelled_at = NULL, reason_code = NULL, reason_message = NULL
                 WHERE deployment_id = queued.deployment_id;
                deployment_ids := ARRAY[queued.deployment_id];
            END IF;
            INSERT INTO deployment_deliveries (delivery_id, deployment_id) VALUES (delivery, deployment_ids[1]);
            application_ids := followers;
            linked := '{1}';
            unfollowed := '{}';
            delivery_unmatched := delivery_ignored;
        END IF;

        INSERT INTO deliveries (delivery_id, endpoint_id, source, headers, body, verdict, ignored)
        VALUES (
            delivery, endpoint, endpoint_source, delivery_headers, delivery_body,
            (CASE WHEN followers = '{}' THEN 'ignored' ELSE 'queued' END)::verdict,
            CASE WHEN delivery_unmatched IS NULL THEN '[]' ELSE ('[' || delivery_unmatched || ']')::jsonb END
        );

        number := 0;
        again := false;
        RETURN NEXT;
        RETURN;
    END;

    RETURN QUERY
    SELECT *
      FROM accept_3(
               ARRAY[endpoint], ARRAY[endpoint_version], ARRAY[endpoint_source], ARRAY[delivery_headers],
               ARRAY[delivery], '{1}', '{1}', ARRAY[delivery_key], ARRAY[delivery_window],
               ARRAY[delivery_may_repeat], ARRAY[delivery_body], ARRAY[delivery_ignored], ARRAY[delivery_unmatched],
               '{1}', '{1}', '{1}', ARRAY[push_digest], ARRAY[image_repository], ARRAY[image_tag],
               ARRAY[image_names], ARRAY[image_subscribed], ARRAY[image_reason], ARRAY[image_further]
           );
END
$$;

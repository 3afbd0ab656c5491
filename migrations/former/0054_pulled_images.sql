-- What was pulled to an engine, written down before it is: an image that no container is of any more is removed, also of
-- a rollout that was cancelled, and of an application that is gone.
CREATE TABLE pulled_images (
    engine_id      text NOT NULL,
    -- '' is the gateway's own engine
    server_id      text NOT NULL DEFAULT '',
    application_id text NOT NULL,
    repository     text NOT NULL,
    tag            text,
    digest         text NOT NULL,
    pulled_at      timestamptz NOT NULL DEFAULT now(),
    next_look_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (application_id, engine_id, server_id, repository, digest)
);

CREATE INDEX pulled_images_by_look ON pulled_images (engine_id, next_look_at);
CREATE INDEX pulled_images_by_digest ON pulled_images (digest);
CREATE INDEX deployments_by_serving_digest ON deployments (application_id, created_at DESC)
    WHERE status IN ('succeeded', 'unchanged') AND digest IS NOT NULL;

COMMENT ON TABLE pulled_images IS 'images that may be on an engine for an application''s sake, the application perhaps gone';

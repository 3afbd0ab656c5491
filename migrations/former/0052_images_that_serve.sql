-- The image a deployment was asked to run becomes the application's, and the subscription to the tag it had moves along,
-- once it serves: a mistyped tag, or a chart among the images, moves neither.
ALTER TABLE deployments
    ADD COLUMN image text,
    ADD COLUMN moves_subscription boolean NOT NULL DEFAULT false;

CREATE INDEX deployments_by_image_to_be ON deployments (reference)
    WHERE status IN ('queued', 'running') AND image IS NOT NULL AND moves_subscription;

COMMENT ON COLUMN deployments.image IS
    'as it was written; the application''s once this has succeeded; null where none was named, or a person named another since';
COMMENT ON COLUMN deployments.moves_subscription IS 'whether what is followed for the image''s sake moves with it';

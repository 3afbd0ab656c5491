-- Lists are read page by page, each from one index in its order; nothing that is asked often reads a whole table.

CREATE INDEX deployments_newest ON deployments (created_at DESC, deployment_id DESC);
CREATE INDEX deployments_newest_of_application ON deployments (application_id, created_at DESC, deployment_id DESC);
DROP INDEX deployments_of_application;  -- the one above is read for the same
-- What tells of an application's state: its newest deployment that ended as it was meant to, or not.
CREATE INDEX deployments_telling ON deployments (application_id, created_at DESC)
 WHERE status NOT IN ('superseded', 'cancelled');
CREATE INDEX deployments_pending ON deployments (requested_at, deployment_id) WHERE status IN ('queued', 'running');
-- A deployment that is removed is looked for in what names it.
CREATE INDEX deployments_superseded_by ON deployments (superseded_by) WHERE superseded_by IS NOT NULL;
CREATE INDEX deployments_rolls_back_to ON deployments (rolls_back_to) WHERE rolls_back_to IS NOT NULL;
CREATE INDEX watches_of_deployment ON watches (deployment_id);
CREATE INDEX swaps_of_deployment ON swaps (deployment_id);

CREATE INDEX deliveries_newest ON deliveries (received_at DESC, delivery_id DESC);
DROP INDEX deliveries_by_age;
CREATE INDEX deliveries_of_endpoint ON deliveries (endpoint_id, verdict, received_at DESC, delivery_id DESC);
DROP INDEX deliveries_rejected;
CREATE INDEX deliveries_of_source ON deliveries (source, verdict, received_at DESC, delivery_id DESC);
CREATE INDEX deliveries_of_verdict ON deliveries (verdict, received_at DESC, delivery_id DESC);

CREATE INDEX applications_newest ON applications (created_at DESC, application_id DESC);

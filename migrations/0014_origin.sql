-- expands
-- The repository and commit that a call for a deployment names: for images whose labels name none.
ALTER TABLE deployments ADD COLUMN origin jsonb;

-- What the hosts of source code know of a deployment by its earlier events.
CREATE INDEX outbox_events_of_deployment ON outbox_events (deployment_id) WHERE deployment_id IS NOT NULL;

-- expands
-- The container, or service, that a deployment let serve, recorded before it does. Labels can be copied; an id cannot.
-- Null: none, or an older gateway did it.
ALTER TABLE deployments ADD COLUMN object_id text;

UPDATE deployments d SET object_id = w.object_id FROM watches w WHERE w.deployment_id = d.deployment_id;
UPDATE deployments d SET object_id = s.new FROM swaps s WHERE s.deployment_id = d.deployment_id;

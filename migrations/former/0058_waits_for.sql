-- Which applications a deployment that is claimed waits for, before it stops and starts on the engine.
ALTER TABLE deployments ADD COLUMN waits_for text;

-- The inbox can be read: what came with a delivery, why it was refused, and what was asked for again.

ALTER TABLE deliveries
    ADD COLUMN headers   jsonb NOT NULL DEFAULT '{}',  -- without secrets
    ADD COLUMN replay_of text REFERENCES deliveries ON DELETE SET NULL,
    -- One row stands for all refusals of an endpoint for one reason in one hour: nobody proves to be anyone there.
    ADD COLUMN refusal   text,
    ADD COLUMN hour      timestamptz,
    ADD COLUMN times     bigint NOT NULL DEFAULT 1,
    ADD CHECK ((refusal IS NULL) = (hour IS NULL)),
    ADD CHECK (refusal IS NULL OR verdict = 'rejected');

CREATE UNIQUE INDEX deliveries_refused ON deliveries (endpoint_id, refusal, hour);
CREATE INDEX deliveries_rejected ON deliveries (endpoint_id, received_at) WHERE verdict = 'rejected';
CREATE INDEX deliveries_duplicate_of ON deliveries (duplicate_of) WHERE duplicate_of IS NOT NULL;
CREATE INDEX deliveries_replay_of ON deliveries (replay_of) WHERE replay_of IS NOT NULL;

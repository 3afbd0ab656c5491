-- The attempt that opened a swap: what it sent to a Swarm is recognised by it, which an earlier attempt of the same
-- deployment may have sent too, and taken back.
ALTER TABLE swaps ADD COLUMN attempt integer NOT NULL DEFAULT 0;

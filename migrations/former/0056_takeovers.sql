-- Deployments whose gateway dies, or fails on a defect, again and again come to an end.
ALTER TABLE deployments
    -- How often in a row a gateway took it over from one that fell silent while it worked on it.
    ADD COLUMN takeovers   integer NOT NULL DEFAULT 0,
    -- How often an attempt ended on a defect.
    ADD COLUMN defects     integer NOT NULL DEFAULT 0,
    -- How long it was to wait when it was put back. Where the next attempt is further off, the clock has stepped back.
    ADD COLUMN wait_length interval NOT NULL DEFAULT '0 seconds';

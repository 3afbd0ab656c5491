-- No open swap is without an end: how often it was tried to settle it, and how often that ended on a defect.
ALTER TABLE swaps
    ADD COLUMN settlings integer NOT NULL DEFAULT 0,
    ADD COLUMN defects   integer NOT NULL DEFAULT 0;

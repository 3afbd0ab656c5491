-- When it was asked to be cancelled, of one that could not be at once: whoever has or claims it puts back first.
ALTER TABLE deployments
    ADD COLUMN cancelled_at timestamptz;

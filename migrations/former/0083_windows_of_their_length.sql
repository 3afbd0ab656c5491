-- A window lasts no longer than it was to, also where the clock steps back.
ALTER TABLE watches ADD COLUMN length interval;  -- null for those from before

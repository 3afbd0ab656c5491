-- An application has an address of its own at which it is asked to deploy; its token, which is shown again, is the
-- secret too. What comes there is a delivery as from any registry, and concerns that application alone.
ALTER TABLE endpoints
    ADD COLUMN application_id text UNIQUE REFERENCES applications ON DELETE CASCADE,  -- null: a registry's
    ADD CHECK ((source = 'deploy') = (application_id IS NOT NULL));

-- It was kept for clients without meaning anything.
UPDATE applications SET other_columns = other_columns - 'refreshToken';

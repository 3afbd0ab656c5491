-- Keys: what each may do, on what, until when and how often.

CREATE TYPE permission AS ENUM (
    'read',    -- see, and change nothing
    'deploy',  -- have an application deployed, as it is configured
    'admin'    -- everything
);

ALTER TABLE api_keys
    ADD COLUMN permission     permission NOT NULL DEFAULT 'admin',
    ADD COLUMN restricted     boolean NOT NULL DEFAULT false,  -- to what key_applications and key_projects name, be that nothing
    ADD COLUMN expires_at     timestamptz,
    ADD COLUMN last_used_from inet,
    -- So many requests in a window; null: any number.
    ADD COLUMN rate_most      integer CHECK (rate_most > 0),
    ADD COLUMN rate_window    interval CHECK (rate_window > interval '0'),
    ADD COLUMN window_from    timestamptz,                     -- the window that runs, and what it has seen
    ADD COLUMN window_count   integer NOT NULL DEFAULT 0,
    ADD CHECK ((rate_most IS NULL) = (rate_window IS NULL));

-- An application that goes takes its grants with it: another one of the same id is another one.
CREATE TABLE key_applications (
    key_id         text NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    application_id text NOT NULL REFERENCES applications ON DELETE CASCADE,
    PRIMARY KEY (key_id, application_id)
);

CREATE INDEX key_applications_of_application ON key_applications (application_id);

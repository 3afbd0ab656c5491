-- Pushes that nobody tells of are looked for, where that is wanted.

ALTER TABLE applications
    ADD COLUMN reconcile integer CHECK (reconcile >= 0);  -- seconds between looks; 0: never; null: as its registry

-- What is looked at: one tag, or where `tag` is empty the list of them.
CREATE TABLE looks (
    repository text NOT NULL,
    tag        text NOT NULL,
    domain     text NOT NULL,
    seconds    integer NOT NULL CHECK (seconds > 0),
    next_at    timestamptz NOT NULL,
    -- As it was seen last.
    looked_at  timestamptz,
    digest     text,
    etag       text,
    PRIMARY KEY (repository, tag)
);

CREATE INDEX looks_due ON looks (domain, next_at);
CREATE INDEX applications_reconciled ON applications (application_id) WHERE reconcile IS NOT NULL;

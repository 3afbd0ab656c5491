-- Where an application is reached, as the reverse proxy before it serves it. Kept for clients; nothing here routes by it.
CREATE TABLE domains (
    domain_id text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,  -- the contract has one beside the id
    application_id text NOT NULL REFERENCES applications ON DELETE CASCADE,
    host text NOT NULL,
    columns jsonb NOT NULL,  -- what else the contract has of it
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX domains_of_application ON domains (application_id);

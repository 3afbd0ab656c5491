-- expands
-- Where the gateway that serves is reached, which commands in another shell do not know.

CREATE TABLE serving (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    public_url text,           -- null where the setting is not set
    listens    text NOT NULL,  -- http://host:port
    since      timestamptz NOT NULL DEFAULT now()
);

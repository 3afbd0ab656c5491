-- expands
-- With GATEWAY_DISCOVER=labels, what the gateway decided on each container or service that asks for adoption by a label.
-- Each is decided once, so that an application that a person deleted does not come back by itself.
CREATE TABLE labelled_objects (
    engine_id      text NOT NULL REFERENCES engines ON DELETE CASCADE,
    server_id      text REFERENCES servers ON DELETE CASCADE,  -- null: the gateway's own engine
    object_id      text NOT NULL,                              -- the engine's id of the container or service
    name           text NOT NULL,
    labels_hash    text NOT NULL,                              -- decided again when its labels are others
    application_id text,                                       -- outlives the application; null: left alone
    reason         text NOT NULL DEFAULT '',                   -- why it was left alone
    decided_at     timestamptz NOT NULL DEFAULT now(),
    gone_at        timestamptz                                 -- when the engine no longer had it
);

CREATE UNIQUE INDEX labelled_objects_at ON labelled_objects (engine_id, coalesce(server_id, ''), object_id);
CREATE INDEX labelled_objects_of_server ON labelled_objects (server_id);

-- The applications that labels adopted.
CREATE TABLE labelled_applications (
    application_id  text PRIMARY KEY REFERENCES applications ON DELETE CASCADE,
    subscription_id text REFERENCES subscriptions ON DELETE SET NULL,  -- made for gateway.follow
    not_carried     text[] NOT NULL DEFAULT '{}',
    missing_since   timestamptz,  -- when nothing with its name was there
    -- Why the gateway set auto_deploy to false; null: it did not.
    paused          text CHECK (paused IN ('monitor-only', 'unlabelled', 'gone')),
    adopted_at      timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX labelled_applications_of_subscription ON labelled_applications (subscription_id);

ALTER TABLE audit DROP CONSTRAINT audit_via_check;
ALTER TABLE audit ADD CONSTRAINT audit_via_check CHECK (via IN ('api', 'cli', 'labels'));

-- Two engines may share an id: machines cloned from one disk, or daemons that read one key. So what is known of an engine
-- is known of it at a server. The row of `engines` stays what applications are bound to.
CREATE TABLE engine_addresses (
    engine_id     text NOT NULL REFERENCES engines ON DELETE CASCADE,
    server_id     text REFERENCES servers ON DELETE CASCADE,  -- null: the gateway's own
    daemon        text NOT NULL,                              -- the same at two addresses of one daemon
    swarm_manager boolean NOT NULL,
    last_seen_at  timestamptz NOT NULL DEFAULT now()
);

CREATE UNIQUE INDEX engine_addresses_once ON engine_addresses (engine_id, coalesce(server_id, ''));
CREATE INDEX engine_addresses_of_server ON engine_addresses (server_id);

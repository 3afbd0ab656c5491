-- What has just come to serve and is looked at: trouble until then brings the former version back. At most one an
-- application; not looked at while another deployment of the application waits or runs, and ended by what that does.
CREATE TABLE watches (
    application_id text PRIMARY KEY REFERENCES applications ON DELETE CASCADE,
    deployment_id  text NOT NULL REFERENCES deployments ON DELETE CASCADE,
    object_id      text NOT NULL,     -- what the runtime knows it by
    restarts       integer NOT NULL,  -- it had had when it was proven
    until          timestamptz NOT NULL
);

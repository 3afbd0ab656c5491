-- expands
-- Who is signed in to the dashboard. Each sign-in stands for an API key, and ends with it.

CREATE TABLE sign_ins (
    token_hash   bytea PRIMARY KEY,  -- SHA-256 of the cookie's token
    key_id       text NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL
);

CREATE INDEX sign_ins_expired ON sign_ins (expires_at);
CREATE INDEX sign_ins_of_key ON sign_ins (key_id);

-- A link that signs in once, printed by `gateway open`.
CREATE TABLE sign_in_links (
    token_hash bytea PRIMARY KEY,
    key_id     text NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    expires_at timestamptz NOT NULL
);

CREATE INDEX sign_in_links_of_key ON sign_in_links (key_id);

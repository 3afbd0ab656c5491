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

-- Who signs in with OpenID Connect. A person keeps one key: so what was approved by them was approved by one person.
CREATE TABLE oidc_people (
    issuer     text NOT NULL,
    subject    text NOT NULL,
    key_id     text NOT NULL REFERENCES api_keys ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, subject)
);

CREATE INDEX oidc_people_of_key ON oidc_people (key_id);

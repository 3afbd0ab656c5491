-- expands
-- What the dashboard asks costs the same however many applications there are.

-- The overview, page by page, and applications by their name.
CREATE INDEX applications_by_name ON applications (lower(name), application_id);
-- Whether a state has changed since.
CREATE INDEX observations_changed ON observations (since);
CREATE INDEX endpoints_newest ON endpoints (created_at DESC, endpoint_id DESC);

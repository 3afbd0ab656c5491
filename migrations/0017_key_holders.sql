-- expands
-- Who a key of `gateway open` stands for when people approve deployments: key:ID or cli:USER; null: for itself.
ALTER TABLE api_keys ADD COLUMN held_by text;

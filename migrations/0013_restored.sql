-- expands
-- When this database was restored from a backup; null: it never was. What was requested before that replaces nothing that
-- a deployment made which the database does not know.
ALTER TABLE installation ADD COLUMN restored_at timestamptz;

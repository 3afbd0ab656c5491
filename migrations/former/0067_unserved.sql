-- An application whose swap went neither forward nor back serves nothing: people are told once, and it is tried often.
ALTER TABLE swaps ADD COLUMN told_at timestamptz;

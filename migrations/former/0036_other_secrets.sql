-- What clients keep here for builds may be secret, though it means nothing for an image.
ALTER TABLE applications ADD COLUMN other_secrets bytea;  -- sealed: those of `other_columns` that may be secret

-- Applications that took over what somebody else had started.

ALTER TABLE applications
    ADD COLUMN base bytea;  -- sealed: what it was found with; its columns lie over it

-- What was found keeps its name, whatever the engine allows for one.
ALTER TABLE applications
    DROP CONSTRAINT applications_app_name_check,
    ADD CONSTRAINT applications_app_name_check CHECK (app_name ~ '^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$');

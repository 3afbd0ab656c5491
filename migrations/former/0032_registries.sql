-- Registries whose tokens end and are fetched anew, and those whose certificates an authority of their own has signed.

ALTER TABLE registries
    ADD COLUMN authority text,   -- certificates, PEM, trusted there besides the system's
    ADD COLUMN amazon    jsonb,  -- how tokens of Amazon ECR are come by; username and password are the keys then
    ADD CHECK ((registry_type = 'ecr') = (amazon IS NOT NULL));

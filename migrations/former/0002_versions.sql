-- Either order of a swap, and the way back to a version that ran before.

ALTER TYPE kind ADD VALUE 'rollback';  -- brings a version back that ran before

CREATE TYPE runtime AS ENUM ('container', 'service');
CREATE TYPE swap_order AS ENUM ('start-first', 'stop-first');

ALTER TABLE deployments
    ADD COLUMN rolls_back_to text REFERENCES deployments ON DELETE SET NULL,
    ADD COLUMN ran bytea,  -- sealed: the application as it was when this succeeded
    ADD CHECK (rolls_back_to IS NULL OR kind::text = 'rollback');

-- Which version serves, and which did before: the newest that succeeded come first.
CREATE INDEX deployments_replaced ON deployments (application_id, finished_at DESC)
 WHERE status = 'succeeded' AND replaced;

ALTER TABLE swaps
    ADD COLUMN runtime runtime NOT NULL DEFAULT 'container',
    ADD COLUMN swap_order swap_order NOT NULL DEFAULT 'stop-first',
    ADD COLUMN new_restart_policy jsonb;  -- of a kept container that serves again; null for one just created

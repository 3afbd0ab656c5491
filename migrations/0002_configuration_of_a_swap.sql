-- expands
-- The configuration may change while a swap is open. What finishes the swap needs the one that it began with.
ALTER TABLE swaps ADD COLUMN ran bytea;  -- encrypted: the application as `new` was made from; null in an older row

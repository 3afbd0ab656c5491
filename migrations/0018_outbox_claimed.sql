-- expands
-- What gateways deliver now: how many more a receiver may get at a time is counted with each claim.
CREATE INDEX outbox_claimed ON outbox_deliveries (alert_id, lease_until) WHERE state = 'waiting' AND lease_until IS NOT NULL;

"""The ways in for push events: webhooks and deploy tokens, both through one request pipeline."""

"""Thousands of simulated engines, several real gateways, one PostgreSQL: what a host costs, and what a kill loses."""

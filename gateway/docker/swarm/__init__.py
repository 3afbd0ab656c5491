"""Runs an application as a service of a Swarm."""

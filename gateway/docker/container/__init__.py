"""Runs an application as one container."""

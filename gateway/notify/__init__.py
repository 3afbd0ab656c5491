"""Tells receivers of events: people, programs, and the hosts of source code. It has no database."""

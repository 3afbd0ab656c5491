"""The Docker Engine: what may be asked of it, as values and a few calls. It knows no database and no queue."""

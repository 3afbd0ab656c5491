"""The dashboard in a real browser, on a real gateway, engine, registry and database: `make ui`."""

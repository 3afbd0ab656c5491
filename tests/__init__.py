"""Claims about the gateway, each shown on the real thing where that is possible."""

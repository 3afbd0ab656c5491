"""Names made of other names."""

import re


def slug(name: str) -> str:
    """Derive a container name from an application's name: `Production API` becomes `production-api`."""
    made = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50]
    return made if len(made) > 1 else f"app-{made}".rstrip("-")

"""Which registries and token services the settings trust."""

from gateway.config import Settings
from gateway.model.reference import Domain, parse_domain


def token_hosts(settings: Settings) -> frozenset[str]:
    """Return the hosts that may receive the credentials of any registry that names them as its token service."""
    return frozenset(text.strip().lower() for text in settings.token_hosts.split(",") if text.strip())


def insecure_registries(settings: Settings) -> frozenset[Domain]:
    """Return the registries to reach without TLS, or with any certificate."""
    return frozenset(parse_domain(text.strip()) for text in settings.insecure_registries.split(",") if text.strip())

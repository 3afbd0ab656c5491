"""The registries whose notifications are understood: one file each, one line here."""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.sources import distribution, dockerhub, ecr, github
from gateway.sources._source import Handshake, Request, Source, Trust

__all__ = ["SOURCES", "Handshake", "Request", "Source", "Trust"]

SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "dockerhub": dockerhub.SOURCE,
        "github": github.SOURCE,
        "ecr": ecr.SOURCE,
        "distribution": distribution.SOURCE,
    }
)

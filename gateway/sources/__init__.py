"""The registries whose notifications are understood: one file each, one line here."""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.sources import (
    acr,
    aliyun,
    artifactregistry,
    distribution,
    dockerhub,
    ecr,
    generic,
    gitea,
    github,
    gitlab,
    harbor,
    jfrog,
    nexus,
    quay,
    zot,
)
from gateway.sources._json import unform
from gateway.sources._redaction import keepable
from gateway.sources._source import Handshake, Request, Source, Trust

__all__ = ["SOURCES", "Handshake", "Request", "Source", "Trust", "keepable", "unform"]

SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "dockerhub": dockerhub.SOURCE,
        "github": github.SOURCE,
        "ecr": ecr.SOURCE,
        "distribution": distribution.SOURCE,
        "harbor": harbor.SOURCE,
        "quay": quay.SOURCE,
        "acr": acr.SOURCE,
        "artifactregistry": artifactregistry.SOURCE,
        "gitlab": gitlab.SOURCE,
        "gitea": gitea.SOURCE,
        "jfrog": jfrog.SOURCE,
        "nexus": nexus.SOURCE,
        "zot": zot.SOURCE,
        "aliyun": aliyun.SOURCE,
        "generic": generic.SOURCE,
    }
)

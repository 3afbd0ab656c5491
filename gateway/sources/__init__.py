"""Webhook formats: one module for each registry. It performs no I/O.

A module verifies that a request comes from its registry, and parses it into push events. To add a registry, write a
module with a `SOURCE`, and add one line here; docs/adding-a-source.md has the steps.
"""

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
from gateway.sources._json import decode_form
from gateway.sources._redaction import redact_body
from gateway.sources._source import Handshake, Request, Source, Trust

__all__ = ["SOURCES", "Handshake", "Request", "Source", "Trust", "decode_form", "redact_body"]

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

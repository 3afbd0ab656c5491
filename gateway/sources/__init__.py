"""The registries whose notifications are understood: one file each, one line here."""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.sources import aliyun, distribution, dockerhub, ecr, generic, gitea, github, gitlab, jfrog, nexus, zot
from gateway.sources._source import Handshake, Request, Source, Trust

__all__ = ["SOURCES", "Handshake", "Request", "Source", "Trust"]

SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "dockerhub": dockerhub.SOURCE,
        "github": github.SOURCE,
        "ecr": ecr.SOURCE,
        "distribution": distribution.SOURCE,
        "gitlab": gitlab.SOURCE,
        "gitea": gitea.SOURCE,
        "jfrog": jfrog.SOURCE,
        "nexus": nexus.SOURCE,
        "zot": zot.SOURCE,
        "aliyun": aliyun.SOURCE,
        "generic": generic.SOURCE,
    }
)

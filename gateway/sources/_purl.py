"""Package URLs of images, as CDEvents and bills of materials have them.

https://github.com/package-url/purl-spec: `pkg:oci/app@sha256%3A…?repository_url=ghcr.io/acme/app&tag=1.2` and
`pkg:docker/acme/app@1.2?repository_url=ghcr.io`.
"""

from urllib.parse import parse_qs, unquote

from gateway.model.errors import InvalidInput

_SCHEME = "pkg:"
_MOST_FIELDS = 16


def image_from_purl(name: str) -> str:
    """Return the image that a package URL names, and any other name unchanged; raises InvalidInput."""
    if not name.startswith(_SCHEME):
        return name
    address, _, query = name.removeprefix(_SCHEME).partition("#")[0].partition("?")
    kind, _, path = address.partition("/")
    path, _, version = path.partition("@")
    fields = _fields(query)
    host = fields.get("repository_url", "").rpartition("://")[2].strip("/")
    if kind == "oci" and host:
        image = host
    elif kind == "docker":
        image = f"{host}/{unquote(path)}".lstrip("/")
    else:
        raise InvalidInput("the package URL names neither a docker image nor an oci image with a repository_url")
    tag, version = fields.get("tag", ""), unquote(version)
    digest = version if ":" in version else ""
    tag = tag or version.removesuffix(digest)
    return image + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")


def _fields(query: str) -> dict[str, str]:
    try:
        return {key: values[0] for key, values in parse_qs(query, max_num_fields=_MOST_FIELDS).items()}
    except ValueError as error:
        raise InvalidInput("the package URL has too many fields") from error

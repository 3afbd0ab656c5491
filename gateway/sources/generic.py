"""Anything that can post JSON: a CI job, a script, a registry without a source of its own.

Without settings the body is `{"image": "repo:tag"}`, or the name, `tag` and `digest` apart, or an array of these.
With them, JSON Pointers say where in any JSON the image, tag and digest stand.
"""

from collections.abc import Mapping
from typing import Literal

from gateway.model.errors import InvalidInput
from gateway.model.events import Ignored, Notification
from gateway.model.signatures import verify_credentials, verify_hmac
from gateway.sources._events import ParsedEvent, image_push_event, notification, quoted
from gateway.sources._json import bounded, parse_value, unmarked
from gateway.sources._json_pointer import parse_pointer, resolve
from gateway.sources._purl import image_of
from gateway.sources._source import Request, Source, Trust

_HEADER = "Authorization"
_TOKEN_HEADER = "x-api-key"  # noqa: S105 - a header's name
_SIGNATURE_HEADER = "X-Hub-Signature-256"

_POINTERS = ("tag", "digest", "id")
_NAMES = ("/image", "/repository", "/artifact", "/name")
_PLAIN = {"tag": "/tag", "digest": "/digest"}
_CHOICES = {
    "proof": {"secret", "hmac", "path"},
    "algorithm": {"sha1", "sha256", "sha384", "sha512"},
    "encoding": {"hex", "base64"},
}


def verify(request: Request, trust: Trust) -> None:
    settings, secret = trust.settings, trust.secret
    match _proof(settings, signed=_SIGNATURE_HEADER.lower() in request.headers):
        case "path":
            return
        case "secret":
            verify_credentials(request.headers, secret, settings.get("header", _TOKEN_HEADER).lower())
        case _:
            algorithm = settings.get("algorithm", "sha256")
            sent = request.headers.get(settings.get("header", _SIGNATURE_HEADER).lower(), "")
            encoding: Literal["hex", "base64"] = "base64" if settings.get("encoding") == "base64" else "hex"
            sent = sent.removeprefix(f"{algorithm}=")
            verify_hmac(sent, secret, request.body, algorithm=algorithm, encoding=encoding)


def signed(request: Request, trust: Trust) -> bool:
    return _proof(trust.settings, signed=_SIGNATURE_HEADER.lower() in request.headers) == "hmac"


def _proof(settings: Mapping[str, str], *, signed: bool) -> str:
    signs = not settings.keys().isdisjoint({"header", "algorithm", "encoding"})
    return settings.get("proof", "hmac" if signs or signed else "secret")


def _chosen_header(settings: Mapping[str, str]) -> str | None:
    proof = _proof(settings, signed=False)
    usual = _HEADER if proof == "secret" else _SIGNATURE_HEADER
    return None if proof == "path" else settings.get("header", usual)


def parse(request: Request, trust: Trust) -> Notification:
    loaded = parse_value(unmarked(request.body))
    # Pointers count from the outermost array, if there is one.
    parts = bounded(loaded, "") if isinstance(loaded, list) and "image" not in trust.settings else [loaded]
    ids = [_word(part, trust.settings.get("id", "/id")) for part in parts]
    return notification([_said(part, trust) for part in parts], ids=ids, timeless=True)


def _said(document: object, trust: Trust) -> ParsedEvent:
    settings = trust.settings
    pointer, _, wanted = settings.get("when", "").partition("=")
    if pointer and (found := _word(document, pointer)) != wanted:
        return Ignored("", f"{quoted(found)} at {pointer}, not {wanted}")
    image = image_of(_image(document, settings))
    if not image and "image" in settings:
        return Ignored("", f"nothing at {settings['image']}")
    if not image:
        raise InvalidInput('no image is named: send {"image": "registry.example.com/team/app:1.2"}', field="image")
    # Another's JSON may well have a "tag" that is none.
    plain = {} if "image" in settings else _PLAIN
    tag, digest = ({**plain, **settings}.get(name) for name in ("tag", "digest"))
    return image_push_event(
        image,
        trust,
        tag=_word(document, tag) if tag else "",
        digest=_text(document, digest) if digest else "",
    )


def _image(document: object, settings: Mapping[str, str]) -> str:
    named = settings.get("image", "")
    if named and not named.startswith("/"):
        return named
    pointers = [named] if named else _NAMES
    return next((text for pointer in pointers if (text := _text(document, pointer))), "")


def _word(document: object, pointer: str) -> str:
    found = resolve(document, parse_pointer(pointer))
    # Tags and ids are often numbers; a fraction would have lost its zeros.
    return str(found) if type(found) is int else _text(document, pointer)


def _text(document: object, pointer: str) -> str:
    found = resolve(document, parse_pointer(pointer))
    if found is not None and not isinstance(found, str):
        raise InvalidInput(f"{pointer} is not text: put it in quotes", field=pointer)
    return found or ""


def check(settings: Mapping[str, str]) -> None:
    for name, choices in _CHOICES.items():
        if settings.get(name) not in {None, *choices}:
            raise InvalidInput(f"{name} is one of {', '.join(sorted(choices))}", field="settings")
    for name in _POINTERS:
        parse_pointer(settings.get(name, ""))
    if settings.get("image", "/").startswith("/"):
        parse_pointer(settings.get("image", ""))
    if "when" in settings and "=" not in settings["when"]:
        raise InvalidInput("when is POINTER=VALUE, as in /action=published", field="settings")
    parse_pointer(settings.get("when", "").partition("=")[0])


SOURCE = Source(
    "generic",
    header=_HEADER,
    header_value="Bearer {secret}",
    verify=verify,
    signed=signed,
    parse=parse,
    settings={
        "image": "where the image's name stands, as a JSON Pointer: /push/image; or the name itself.",
        "tag": "where the tag stands, if not in the image's name.",
        "digest": "where the digest stands, if not in the image's name.",
        "id": "where something stands that is new with each delivery and the same when one is repeated (/id).",
        "when": "POINTER=VALUE: deploy only where this value stands there, as in /action=published.",
        "proof": "secret: the secret itself as a bearer or x-api-key; hmac: a signature; path: the path is all.",
        "header": f"the header that carries the signature ({_SIGNATURE_HEADER}), or with proof=secret the secret.",
        "algorithm": "what it is made with: sha1, sha256 (the default), sha384 or sha512.",
        "encoding": "how it is written: hex (the default) or base64.",
    },
    chosen_header=_chosen_header,
    check=check,
    honours_retry_after=True,
    response_deadline=9.0,
)

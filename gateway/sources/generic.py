"""Any sender of JSON: a CI job, a script, a registry without a source of its own.

Without settings the body is `{"image": "repo:tag"}`, or has the name, `tag` and `digest` as separate fields, or is an
array of these. Settings with JSON Pointers find the image, tag and digest in any other JSON. `source` and `revision`
name the repository and the commit that the image was built from.
"""

from collections.abc import Mapping
from typing import Literal

from gateway.model.commits import origin_of
from gateway.model.errors import InvalidInput
from gateway.model.events import Ignored, Notification
from gateway.model.signatures import verify_credentials, verify_hmac
from gateway.sources._events import ParsedEvent, image_push_event, notification, quote
from gateway.sources._json import check_length, parse_value, strip_byte_order_mark
from gateway.sources._json_pointer import parse_pointer, resolve
from gateway.sources._purl import image_from_purl
from gateway.sources._source import Request, Source, Trust

_HEADER = "Authorization"
_TOKEN_HEADER = "x-api-key"  # noqa: S105 - a header's name
_SIGNATURE_HEADER = "X-Hub-Signature-256"

_POINTERS = ("tag", "digest", "id", "source", "revision")
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
    loaded = parse_value(strip_byte_order_mark(request.body))
    # With a setting `image`, pointers start at the outermost value, which may be an array.
    parts = check_length(loaded, "") if isinstance(loaded, list) and "image" not in trust.settings else [loaded]
    ids = [_word(part, trust.settings.get("id", "/id")) for part in parts]
    return notification([_parse_event(part, trust) for part in parts], ids=ids, timeless=True)


def _parse_event(document: object, trust: Trust) -> ParsedEvent:
    settings = trust.settings
    pointer, _, wanted = settings.get("when", "").partition("=")
    if pointer and (found := _word(document, pointer)) != wanted:
        return Ignored("", f"{quote(found)} at {pointer}, not {wanted}")
    image = image_from_purl(_image(document, settings))
    if not image and "image" in settings:
        return Ignored("", f"nothing at {settings['image']}")
    if not image:
        raise InvalidInput('no image is named: send {"image": "registry.example.com/team/app:1.2"}', field="image")
    # In JSON of another form a field "tag" may mean something else.
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
    # Tags and ids are often integers. A fraction is not accepted: JSON does not keep its trailing zeros.
    return str(found) if type(found) is int else _text(document, pointer)


def _text(document: object, pointer: str) -> str:
    found = resolve(document, parse_pointer(pointer))
    if found is not None and not isinstance(found, str):
        raise InvalidInput(f"{pointer} is not text: put it in quotes", field=pointer)
    return found or ""


def origin(request: Request, trust: Trust) -> Mapping[str, str] | None:
    document = parse_value(strip_byte_order_mark(request.body))
    said = (resolve(document, parse_pointer(trust.settings.get(name, f"/{name}"))) for name in ("source", "revision"))
    return origin_of(*said)


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
    title="anything that posts JSON",
    header=_HEADER,
    header_value="Bearer {secret}",
    verify=verify,
    signed=signed,
    parse=parse,
    origin=origin,
    settings={
        "image": "the JSON Pointer of the image's name, as in /push/image; or the name itself.",
        "tag": "the JSON Pointer of the tag, if it is not in the image's name.",
        "digest": "the JSON Pointer of the digest, if it is not in the image's name.",
        "source": "the JSON Pointer of the address of the repository that the image was built from (/source).",
        "revision": "the JSON Pointer of the full hash of the commit that the image was built from (/revision).",
        "id": "the JSON Pointer of an id that differs for each push, and stays the same when one is sent again (/id).",
        "when": "POINTER=VALUE: deploy only where the pointer has this value, as in /action=published.",
        "proof": "secret: the secret itself, as a bearer or in x-api-key; hmac: a signature; path: only the path.",
        "header": f"the header that carries the signature ({_SIGNATURE_HEADER}), or with proof=secret the secret.",
        "algorithm": "the signature's hash: sha1, sha256 (the default), sha384 or sha512.",
        "encoding": "the signature's encoding: hex (the default) or base64.",
    },
    chosen_header=_chosen_header,
    check=check,
    honours_retry_after=True,
    response_deadline=9.0,
)

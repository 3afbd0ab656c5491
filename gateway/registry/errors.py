"""Classify a registry's error responses and failed connections. It performs no I/O."""

import errno
import heapq
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import aiohttp

from gateway.model.errors import Code, Failed, Postponed, RolloutError
from gateway.model.reference import Domain, Reference
from gateway.model.registries import Login
from gateway.registry.rate_limit import retry_after
from gateway.registry.responses import Answer

# https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/
_EXPIRED, _NOT_YET = 10, 9
_NAME_MISMATCHES = frozenset({62, 64})
_PLAINTEXT = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
_NAMED = 5  # nearest tags in a message
_COMPARED = 50
_MAX_TYPE = 100


@dataclass(frozen=True, slots=True)
class Subject:
    """What a request is about; `scope` is the scope that a token for it needs, "" for the login alone."""

    domain: Domain
    text: str
    scope: str = ""

    @classmethod
    def of(cls, reference: Reference) -> "Subject":
        repository = reference.repository
        return cls(repository.domain, str(reference), f"repository:{repository.path}:pull")


def raise_for_status(status: int, headers: Mapping[str, str], subject: Subject, login: Login) -> None:
    """Raise Failed or Postponed unless the status is 200."""
    domain, text = subject.domain, subject.text
    match status:
        case 200:
            return
        case 401 | 403:
            also = ", or there is no such repository" if subject.scope else ""
            raise Failed(Code.DENIED, f"{domain} denies {text} {login.description}{also}")
        case 404:
            raise Failed(Code.NOT_FOUND, f"{domain} has no {text}")
        case 429:
            seconds = retry_after(headers)
            raise Postponed(
                Code.RATE_LIMITED,
                f"{domain} limits the rate of requests for {text}, {login.description}{_until(seconds)}",
                retry_after=seconds,
            )
        case _:
            raise Postponed(
                Code.REGISTRY_UNREACHABLE, f"{domain} answers {status} for {text}", retry_after=retry_after(headers)
            )


def _until(seconds: float | None) -> str:
    if seconds is None:
        return ", and does not say for how long"
    return f", until {datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S} UTC"


def not_a_manifest(subject: Subject, answer: Answer) -> Postponed:
    """Return the error for a successful response that is not a manifest, mostly a proxy's page."""
    kind = answer.media_type[:_MAX_TYPE] or "no type"
    what = f"{len(answer.body)} bytes of {kind}" if answer.body else "nothing"
    return Postponed(
        Code.REGISTRY_UNREACHABLE,
        f"{subject.domain} answers {subject.text} with {what}, which is not a manifest: check whether a proxy is in "
        "front of it",
    )


def connection_error(domain: Domain, text: str, error: Exception) -> RolloutError:
    """Return the error for a connection that failed: DNS, port, timeout or certificate."""
    advice = "name it in GATEWAY_INSECURE_REGISTRIES, and in insecure-registries of each engine, if that is intended"
    return _connection_error(domain, text, error, advice)


def token_service_error(service: Domain, subject: Subject, error: Exception) -> RolloutError:
    """Return the error for a connection to a token service that failed, or to where that redirects."""
    what = f"{service}, where {subject.domain} asks for the login,"
    advice = f"configure TLS there, or correct the address of the token service in the settings of {subject.domain}"
    return _connection_error(what, f"a token for {subject.text}", error, advice)


def redirect_error(target: Domain, subject: Subject, error: Exception) -> RolloutError:
    """Return the error for a connection that failed to where the registry redirects."""
    what = f"{target}, where {subject.domain} redirects to,"
    advice = f"configure TLS there, or correct the redirect in the settings of {subject.domain}"
    return _connection_error(what, subject.text, error, advice)


def _connection_error(what: str, text: str, error: Exception, advice: str) -> RolloutError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Failed(
            Code.REGISTRY_UNTRUSTED, _certificate_problem(f"{error.host}:{error.port}", error.certificate_error)
        )
    if isinstance(error, aiohttp.ClientSSLError) and any(word in str(error).upper() for word in _PLAINTEXT):
        return Failed(Code.REGISTRY_UNTRUSTED, f"{what} does not speak TLS: {advice}")
    return Postponed(Code.REGISTRY_UNREACHABLE, f"{_connection_problem(what, error)}, asked for {text}")


def _certificate_problem(host: str, error: Exception) -> str:
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
    why = getattr(error, "verify_message", "") or str(error)
    if code == _EXPIRED:
        return f"the certificate of {host} has expired"
    if code == _NOT_YET:
        return f"the certificate of {host} is not valid yet: compare the clocks"
    if code in _NAME_MISMATCHES:
        return f"the certificate of {host} is for another name: {why}"
    return f"the certificate of {host} is signed by no authority that is trusted here: {why}"


def _connection_problem(what: str, error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror):
        return f"the name {what} is not found (DNS)"
    if isinstance(error, TimeoutError):
        return f"{what} does not answer in time"
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return f"{what} refuses the connection: nothing listens there"
    return f"{what} does not answer: {str(error) or type(error).__name__}"


def missing_image(reference: Reference, tags: Sequence[str] | None) -> Failed:
    """Return the error for an image that does not exist; `tags` are the repository's, None where it does not exist."""
    domain, repository = reference.repository.domain, reference.repository
    if tags is None:
        return Failed(Code.NOT_FOUND, f"{domain} has no repository {repository}")
    if not tags:
        return Failed(Code.NOT_FOUND, f"{domain} has no {reference}: {repository} has no tags at all")
    missing = f"{repository} has no tag {reference.tag}" if reference.digest is None else f"{domain} has no {reference}"
    nearest = ", ".join(nearest_tags(reference, tags))
    return Failed(Code.NOT_FOUND, f"{missing}. The nearest tags are: {nearest}")


def nearest_tags(reference: Reference, tags: Sequence[str]) -> list[str]:
    """Return the few tags that are most similar to the reference's.

    >>> nearest_tags(Reference.parse("app:v1.0.0"), ["latest", "v1.0.1", "1.0.0"])
    ['1.0.0', 'v1.0.1', 'latest']
    """
    import difflib  # for a message alone

    wanted = reference.tag or "latest"
    # A comparison takes the square of the lengths. So only tags that begin or end alike are compared.
    likely = heapq.nlargest(_COMPARED, dict.fromkeys(tags), key=lambda tag: _similarity(wanted, tag))
    return difflib.get_close_matches(wanted, likely, n=_NAMED, cutoff=0.0)


def _similarity(one: str, other: str) -> tuple[int, int]:
    """Return how many characters two tags share at both ends, and minus the difference of their lengths."""
    ends = _common_prefix(one, other) + _common_prefix(one[::-1], other[::-1])
    return min(ends, len(one), len(other)), -abs(len(one) - len(other))


def _common_prefix(one: str, other: str) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )

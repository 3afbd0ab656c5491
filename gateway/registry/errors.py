"""What a registry's refusal, or its silence, means. It performs no I/O."""

import difflib
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
from gateway.registry.rate_limit import wait
from gateway.registry.responses import Answer

# https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/
_EXPIRED, _NOT_YET = 10, 9
_OTHER_NAMES = frozenset({62, 64})
_PLAIN = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
_NEAREST = 5  # tags that are named
_COMPARED = 50
_LONGEST_TYPE = 100


@dataclass(frozen=True, slots=True)
class Subject:
    """What a registry is asked about; `scope` is what a token for it must be good for, "" for the login alone."""

    domain: Domain
    text: str
    scope: str = ""

    @classmethod
    def of(cls, reference: Reference) -> "Subject":
        repository = reference.repository
        return cls(repository.domain, str(reference), f"repository:{repository.path}:pull")


def refuse(status: int, headers: Mapping[str, str], subject: Subject, login: Login) -> None:
    """Raises Failed or Postponed unless it was answered."""
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
            seconds = wait(headers)
            raise Postponed(
                Code.RATE_LIMITED,
                f"{domain} limits our requests for {text}, {login.description}{_until(seconds)}",
                retry_after=seconds,
            )
        case _:
            raise Postponed(
                Code.REGISTRY_UNREACHABLE, f"{domain} answers {status} for {text}", retry_after=wait(headers)
            )


def _until(seconds: float | None) -> str:
    if seconds is None:
        return ", and does not say until when"
    return f", until {datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S} UTC"


def no_manifest(subject: Subject, answer: Answer) -> Postponed:
    """Return what it means that a registry answers well, and not with what it was asked for: a proxy's page, mostly."""
    kind = answer.media_type[:_LONGEST_TYPE] or "no type"
    what = f"{len(answer.body)} bytes of {kind}" if answer.body else "nothing"
    return Postponed(
        Code.REGISTRY_UNREACHABLE,
        f"{subject.domain} answers {subject.text} with {what}, which is no manifest: does a proxy stand before it?",
    )


def unreached(domain: Domain, text: str, error: Exception) -> RolloutError:
    """Return what it means that no answer came: the name, the port, the time, or the certificate."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Failed(Code.REGISTRY_UNTRUSTED, _untrusted(f"{error.host}:{error.port}", error.certificate_error))
    if isinstance(error, aiohttp.ClientSSLError) and any(word in str(error).upper() for word in _PLAIN):
        return Failed(
            Code.REGISTRY_UNTRUSTED,
            f"{domain} does not speak TLS: name it in GATEWAY_INSECURE_REGISTRIES, and in insecure-registries of each "
            "engine, where that is meant",
        )
    return Postponed(Code.REGISTRY_UNREACHABLE, f"{_silence(domain, error)}, asked for {text}")


def _untrusted(host: str, error: Exception) -> str:
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
    why = getattr(error, "verify_message", "") or str(error)
    if code == _EXPIRED:
        return f"the certificate of {host} has expired"
    if code == _NOT_YET:
        return f"the certificate of {host} is not valid yet: compare the clocks"
    if code in _OTHER_NAMES:
        return f"the certificate of {host} is for another name: {why}"
    return f"the certificate of {host} is signed by no authority that is trusted here: {why}"


def _silence(domain: Domain, error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror):
        return f"the name {domain} is not found (DNS)"
    if isinstance(error, TimeoutError):
        return f"{domain} does not answer in time"
    if isinstance(error, OSError) and error.errno == errno.ECONNREFUSED:
        return f"{domain} refuses the connection: nothing listens there"
    return f"{domain} does not answer: {str(error) or type(error).__name__}"


def missing(reference: Reference, tags: Sequence[str] | None) -> Failed:
    """Return what to say of an image that is not there; `tags` are those there are, None without the repository."""
    domain, repository = reference.repository.domain, reference.repository
    if tags is None:
        return Failed(Code.NOT_FOUND, f"{domain} has no repository {repository}")
    if not tags:
        return Failed(Code.NOT_FOUND, f"{domain} has no {reference}: {repository} has no tags at all")
    return Failed(
        Code.NOT_FOUND, f"{domain} has no {reference}; nearest are the tags {', '.join(nearest(reference, tags))}"
    )


def nearest(reference: Reference, tags: Sequence[str]) -> list[str]:
    """Return the few tags that are most like the one named.

    >>> nearest(Reference.parse("app:v1.0.0"), ["latest", "v1.0.1", "1.0.0"])
    ['1.0.0', 'v1.0.1', 'latest']
    """
    wanted = reference.tag or "latest"
    # Comparing takes the square of their lengths: only those are compared that begin or end alike.
    likely = heapq.nlargest(_COMPARED, dict.fromkeys(tags), key=lambda tag: _alike(wanted, tag))
    return difflib.get_close_matches(wanted, likely, n=_NEAREST, cutoff=0.0)


def _alike(one: str, other: str) -> tuple[int, int]:
    """Return how many letters two tags have in common at both ends, and how little their lengths differ."""
    ends = _begin_alike(one, other) + _begin_alike(one[::-1], other[::-1])
    return min(ends, len(one), len(other)), -abs(len(one) - len(other))


def _begin_alike(one: str, other: str) -> int:
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )

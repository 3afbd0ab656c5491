"""The gate `external`: an HTTP hook gets what is to be deployed, and answers pass, refuse or later.

The hook can trust what it gets: the header X-Gateway-Signature is `t=SECONDS,v1=HEX`, with the HMAC-SHA256, by the
gate's secret, of the seconds, a full stop and the body. Whatever is no clear answer leaves the verdict unknown.
"""

import hashlib
import hmac
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self

import aiohttp
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from yarl import URL

from gateway.gates.gate import Gate, GateRule, Sources
from gateway.model.errors import Code, InvalidInput, Postponed, storable_text
from gateway.model.gates import Candidate, Decision, GateSetting, passed, refused, unknown
from gateway.model.registries import parse_ca_certificates
from gateway.model.sanitize import safe_line
from gateway.store import environments
from gateway.store.database import statement

_ANSWER_SIZE = 64 * 1024  # bytes
_EVIDENCE_SIZE = 16 * 1024  # bytes
_MAX_DEPTH = 8
_MESSAGE = 1000  # characters
_LONGEST_DELAY = 86_400.0  # seconds
_SUCCESS = 200


class Rule(GateRule):
    """`url` gets the facts. `allowHttp`: also without TLS, elsewhere than on this host.

    `timeout` and `wait`, the longest wait for an answer other than `later`, are in seconds.
    """

    url: Annotated[str, Field(max_length=2000)]
    allow_http: bool = False
    ca_certificate: str | None = None
    timeout: Annotated[float, Field(ge=1, le=60)] = 10.0
    wait: Annotated[float, Field(gt=0, le=31_622_400)] = 86_400.0

    @field_validator("ca_certificate")
    @classmethod
    def _check_authority(cls, given: str | None) -> str | None:
        try:
            return parse_ca_certificates(given) if given else None
        except InvalidInput as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        try:
            url = URL(self.url)
            host = url.host or ""
        except ValueError as error:
            raise ValueError("url must be like https://checks.example.com/deploy") from error
        if url.scheme not in {"http", "https"} or not host or url.fragment:
            raise ValueError("url must be like https://checks.example.com/deploy")
        if url.user or url.password:
            raise ValueError("url must have no login: the hook knows the gateway by its signature")
        if url.scheme == "http" and not self.allow_http and not _is_loopback(host):
            raise ValueError("url must be https://, or set allowHttp where the network in between is trusted")
        if _is_link_local(host):
            raise ValueError(
                "url must not be a link-local address, where clouds keep the credentials of their machines"
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_link_local(host: str) -> bool:
    try:
        return ip_address(host).is_link_local
    except ValueError:
        return False


class Answer(BaseModel):
    """What the hook answers. Other fields are ignored."""

    model_config = ConfigDict(hide_input_in_errors=True, frozen=True, strict=True)

    verdict: Literal["pass", "refuse", "later"]
    message: str = ""
    retry_after: float | None = Field(default=None, alias="retryAfter", ge=0, allow_inf_nan=False)
    evidence: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """The hook's answer, and when it came."""

    answer: Answer
    answered_at: datetime


async def gather(sources: Sources, setting: GateSetting, rule: Rule, candidate: Candidate) -> Facts:
    """Ask the hook. Raises Postponed."""
    if not setting.secret:
        raise _unanswered("the gate has no secret to sign with: set it again, with --secret or without")
    async with statement(sources.pool) as connection:
        places = await environments.select_places(connection, [candidate.application.environment_id or ""])
    place = places.get(candidate.application.environment_id or "")
    body = orjson.dumps(facts_of(candidate, place, setting.name), option=orjson.OPT_SORT_KEYS)
    seconds = int(datetime.now(UTC).timestamp())
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "pushdeploy",
        "X-Gateway-Signature": sign(setting.secret, seconds, body),
        # The same for each time that this deployment is asked about.
        "Idempotency-Key": _hash(candidate.deployment.deployment_id, candidate.digest, setting.gate_id),
    }
    return Facts(parse_answer(await _post(rule, headers, body)), datetime.now(UTC))


def facts_of(candidate: Candidate, place: environments.Place | None, gate: str) -> Mapping[str, Any]:
    """Return what the hook gets."""
    deployment, application, reference = candidate.deployment, candidate.application, candidate.reference
    return {
        "gate": gate,
        "image": f"{reference.repository}@{candidate.digest}",
        "repository": str(reference.repository),
        "tag": reference.tag,
        "digest": candidate.digest,
        "platform": candidate.platform,
        "servingDigest": candidate.serving,
        "applicationId": application.application_id,
        "application": application.name,
        "environment": place.name if place else None,
        "project": place.project_name if place else None,
        "deploymentId": deployment.deployment_id,
        "kind": deployment.kind.value,
        "requestedBy": deployment.asked_by,
        "requestedAt": deployment.requested_at.isoformat(),
    }


def sign(secret: str, seconds: int, body: bytes) -> str:
    """Return the signature of a body that is sent at this time."""
    made = hmac.new(secret.encode(), b"%d.%b" % (seconds, body), hashlib.sha256).hexdigest()
    return f"t={seconds},v1={made}"


def _hash(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]


async def _post(rule: Rule, headers: Mapping[str, str], body: bytes) -> bytes:
    """Send the facts and return the body of the answer. Raises Postponed unless it is a 2xx one."""
    url, timeout = URL(rule.url), aiohttp.ClientTimeout(total=rule.timeout)
    try:
        tls = ssl.create_default_context(cadata=rule.ca_certificate) if rule.ca_certificate else True
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False, ssl=tls) as response,
        ):
            text = bytearray()
            async for chunk in response.content.iter_any():
                text += chunk
                if len(text) > _ANSWER_SIZE:
                    raise _unanswered(f"{url.host} answers with more than {_ANSWER_SIZE // 1024} KB")
            if not _SUCCESS <= response.status < _SUCCESS + 100:
                # No redirect is followed: the facts were signed for one address.
                raise _unanswered(f"{url.host} answers with status {response.status}; 200 is needed")
            return bytes(text)
    except (TimeoutError, aiohttp.ClientError, OSError, UnicodeError) as error:
        why = "no answer in time" if isinstance(error, TimeoutError) else safe_line(str(error) or type(error).__name__)
        raise _unanswered(f"{url.host} cannot be asked: {why[:300]}") from error


def parse_answer(text: bytes) -> Answer:
    """Read the body of an answer. Raises Postponed."""
    try:
        answer = Answer.model_validate(orjson.loads(text))
    except (orjson.JSONDecodeError, ValidationError, RecursionError) as error:
        raise _unanswered(
            'the hook\'s answer is not like {"verdict": "pass", "message": "…"}, with pass, refuse or later'
        ) from error
    try:
        evidence = _bounded(answer.evidence)
        fits = len(orjson.dumps(evidence)) <= _EVIDENCE_SIZE
    except (TypeError, orjson.JSONEncodeError):
        evidence, fits = {}, False
    return answer.model_copy(
        update={
            "message": storable_text(safe_line(answer.message[:_MESSAGE])),
            "evidence": evidence if fits else {"omitted": f"it is larger than {_EVIDENCE_SIZE // 1024} KB"},
        }
    )


def _bounded(value: Any, depth: int = 0) -> Any:
    """Return JSON that can be stored and shown: text on one line, not nested deeply."""
    if depth > _MAX_DEPTH:
        return "…"
    if isinstance(value, str):
        return storable_text(safe_line(value))
    if isinstance(value, list):
        return [_bounded(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {storable_text(safe_line(str(key))): _bounded(one, depth + 1) for key, one in value.items()}
    return value


def decide(_rule: Rule, facts: Facts, _candidate: Candidate, _now: datetime) -> Decision:
    """Take over the hook's verdict. Nothing is kept: it is asked about each deployment."""
    answer = facts.answer
    message = f"the hook says: {answer.message}" if answer.message else "the hook gives no reason"
    match answer.verdict:
        case "pass":
            return passed(message, answer.evidence)
        case "refuse":
            return refused(Code.GATE_REFUSED, message, answer.evidence)
        case "later":
            delay = None if answer.retry_after is None else timedelta(seconds=min(answer.retry_after, _LONGEST_DELAY))
            again = None if delay is None else facts.answered_at + max(delay, timedelta(seconds=1))
            return unknown(Code.GATE_UNANSWERED, message, answer.evidence, ask_again_at=again)


def _unanswered(message: str) -> Postponed:
    return Postponed(Code.GATE_UNANSWERED, message)


GATE = Gate("external", Rule, gather, decide, title="Ask an HTTP hook", has_secret=True)

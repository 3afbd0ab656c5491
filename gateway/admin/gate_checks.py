"""Ask the gates of an application without deploying, and tell when those about time open."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gateway.docker.container import spec as container_spec
from gateway.docker.swarm import spec as service_spec
from gateway.gates import catalog
from gateway.gates.asking import Answer, ask_all, clock_from, parse_rule
from gateway.gates.gate import Gate, Sources
from gateway.model.applications import Application
from gateway.model.configuration import RuntimeKind
from gateway.model.configuration_diff import Running
from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import Failed, InvalidInput, Postponed, Throttled, Unavailable
from gateway.model.gates import Candidate, GateSetting, Level, effective
from gateway.model.reference import Digest, Reference
from gateway.model.registries import Login, select_login
from gateway.store import applications, engines, environments, gates, registries, versions
from gateway.store.database import statement
from gateway.store.gates import Owner

_RESOLVE_TIMEOUT = 30.0  # seconds
_GATE_TIMEOUT = 60.0  # seconds; a deployment may take longer, but nobody waits for its answer
_MOST = 4  # checks at once in one process
_RETRY_AFTER = 5.0  # seconds
_MAX_STEPS = 1000  # openings of several gates to look at, one after the other

#: the applications that are being checked
_checked: set[str] = set()


@dataclass(frozen=True, slots=True)
class Check:
    """What the gates answer about an image now. No verdict of it is kept."""

    reference: Reference
    answers: Sequence[Answer]


@dataclass(frozen=True, slots=True)
class Opening:
    """When a gate about time opens: at `opens_at`, which is not later than now where it is open; None: never."""

    setting: GateSetting
    is_open: bool
    opens_at: datetime | None


async def check(sources: Sources, application_id: str, image: str | None) -> Check:
    """Ask the gates of the application about an image, by default its own; nothing is deployed or recorded.

    Raises NotFound, InvalidInput, Unavailable, and Throttled while others are being checked.
    """
    if application_id in _checked or len(_checked) >= _MOST:
        raise Throttled("gates are being checked already: wait until that check is done", retry_after=_RETRY_AFTER)
    _checked.add(application_id)
    try:
        return await _check(sources, application_id, image)
    finally:
        _checked.discard(application_id)


async def _check(sources: Sources, application_id: str, image: str | None) -> Check:
    async with statement(sources.pool) as connection:
        await applications.require_live(connection, application_id)
        application = await applications.select_application(connection, sources.vault, application_id)
        application, problem = await environments.resolve_variables(connection, sources.vault, application)
        reference = _parse(image) if image else application.reference
        if problem is not None or reference is None:
            raise InvalidInput(problem or "the application has no image yet: name one", field="image")
        kept = await registries.select_registries(connection, sources.vault, reference.repository.domain)
        serving = await versions.select_serving(connection, sources.vault, application)
        platform = await engines.select_platform(connection, application.engine_id)
        settings = effective(
            await gates.select_gates(connection, sources.vault, Owner(Level.APPLICATION, application_id))
        )
        now = await connection.fetchval("SELECT now()")
    login = select_login(reference.repository, application.own_login, kept)
    digest = await _resolve(sources, reference, login)
    as_service = _is_service(application, serving)
    candidate = Candidate(
        _unqueued(application_id, reference),
        application,
        reference.with_digest(digest),
        digest,
        service_spec.spec_hash(application) if as_service else container_spec.spec_hash(application),
        platform,
        login,
        serving.reference.digest if serving is not None and serving.reference is not None else None,
        on_swarm=as_service,
        only_checked=True,
    )
    kinds = {kind: replace(gate, timeout=min(gate.timeout, _GATE_TIMEOUT)) for kind, gate in catalog.GATES.items()}
    answers = await ask_all(sources, kinds, settings, candidate, clock_from(now))
    return Check(candidate.reference, answers)


def _parse(image: str) -> Reference:
    try:
        return Reference.parse(image)
    except InvalidInput as error:
        raise InvalidInput(str(error), field="image") from error


async def _resolve(sources: Sources, reference: Reference, login: Login) -> Digest:
    try:
        async with asyncio.timeout(_RESOLVE_TIMEOUT):
            return (await sources.registry.resolve(reference, login)).digest
    except Failed as error:
        raise InvalidInput(f"{error}. {error.reason.remedy}", field="image") from error
    except Postponed as error:
        raise Unavailable(f"{error}. {error.reason.remedy}") from error
    except TimeoutError as error:
        raise Unavailable(f"{reference.repository.domain} has not answered in {_RESOLVE_TIMEOUT:.0f} s") from error


def _is_service(application: Application, serving: Running | None) -> bool:
    """Tell whether the next deployment would run as a service, as far as that is known without its engine."""
    if application.adopted_spec is not None:
        return application.adopted_spec.is_service
    if serving is not None and serving.spec_hash == service_spec.spec_hash(application):
        return True
    return application.configuration.runtime is RuntimeKind.SERVICE


def _unqueued(application_id: str, reference: Reference) -> Deployment:
    now = datetime.now(UTC)
    return Deployment(
        deployment_id="",
        application_id=application_id,
        kind=Kind.DEPLOY,
        forced=True,
        status=Status.QUEUED,
        title="Check",
        description="",
        reference=reference,
        expected_digest=None,
        digest=None,
        attempts=0,
        created_at=now,
        requested_at=now,
        next_attempt_at=now,
        started_at=None,
        finished_at=None,
        reason=None,
        log="",
        superseded_by=None,
        rolls_back_to=None,
        epoch=0,
        cancelled_at=None,
    )


# -- when gates open


def next_openings(
    settings: Sequence[GateSetting], now: datetime, kinds: Mapping[str, Gate] | None = None
) -> tuple[list[Opening], datetime | None]:
    """Return when each gate about time opens, and when all of them are open together; None: never."""
    known = catalog.GATES if kinds is None else kinds
    timed = [(one, gate) for one in settings if (gate := known.get(one.kind)) is not None and gate.opens is not None]

    found = [Opening(one, opens == now, opens) for one, gate in timed for opens in (_opens(one, gate, now),)]
    return found, _open_together(timed, now)


def _opens(setting: GateSetting, gate: Gate, at: datetime) -> datetime | None:
    try:
        return at if gate.opens is None else gate.opens(parse_rule(gate, setting.rule), at)
    except InvalidInput:
        return None


def _open_together(timed: Sequence[tuple[GateSetting, Gate]], now: datetime) -> datetime | None:
    together = now
    for _ in range(_MAX_STEPS):
        opens = [_opens(one, gate, together) for one, gate in timed]
        later = [one for one in opens if one is not None]
        if len(later) < len(opens):
            return None
        if max(later, default=together) == together:
            return together
        together = max(later)
    return None

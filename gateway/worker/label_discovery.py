"""Adopts the containers and services of an engine that ask for it by labels: after its events, and once a minute.

Each container or service is decided once: it is adopted, or left alone with a reason. What was left alone is decided
again after a while, since the cause may be gone.

Pushes deploy an application that was adopted by labels for as long as the container or service with its name has the
label. When that is gone, or has lost the label, pushes no longer deploy the application. Nothing is stopped or deleted.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from gateway.admin.adoption import observe_new
from gateway.admin.label_adoption import BusyError, adopt_labelled
from gateway.background import isolate_failures
from gateway.docker import adoption, snapshot
from gateway.docker.container import names
from gateway.docker.engine import containers, services
from gateway.docker.engine.client import ReachedEngine
from gateway.docker.labelled import Labelled, list_labelled, own_labels
from gateway.model import labels
from gateway.model.audit import CURRENT_ACTOR, Actor, Outcome
from gateway.model.errors import Conflict, Failed, InvalidInput, NotFound, truncate
from gateway.model.labels import LabelRequest
from gateway.store import applications, audit, labelled
from gateway.store.audit import UnrecordedEvent
from gateway.store.database import Connection, Pool, statement, transaction
from gateway.store.encryption import Vault
from gateway.store.engines import Place
from gateway.store.labelled import Decision, LabelledApplication, NamedApplication, Paused
from gateway.worker.change_budget import ChangeBudget

_LOG = structlog.get_logger()

LOOK_INTERVAL = 60.0  # seconds
_SOON = 5.0  # seconds until the next look, while something waits
_AT_ONCE = 20  # adoptions in a look; the others come in the next one
#: applications of one engine that labels adopt, at most
MOST_APPLICATIONS = 1000
_RETRY_AFTER = timedelta(minutes=10)  # until what was left alone is decided again
_GONE_AFTER = timedelta(seconds=60)  # without a container of that name: compose may be about to create it again
_MAX_REASON, _MAX_DETAIL = 500, 300  # characters
# Labels may change the application of one name so many times at once, and then once in so many seconds. A program may
# change labels each second, and the audit keeps a row of each change.
_CHANGES, _CHANGE_INTERVAL = 20, 300.0
# The same limit for audit rows about what is left alone on one engine: `docker compose run` always uses new names.
_REFUSALS, _REFUSAL_INTERVAL = 100, 600.0

_BY_IMAGE = (
    "the label comes with its image, and whoever builds an image could write it: set it on the container or service"
)
_BY_TASKS = (
    "its tasks carry the label and the service does not: set it on the service (docker service update --label-add, "
    "or deploy.labels in a stack file)"
)
_ONE_OFF = "docker compose run made it, to run once"
_TOO_MANY = f"labels adopt at most {MOST_APPLICATIONS} applications of one engine: adopt it with gateway apps adopt"


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look at an engine: what the database knew before, and what carries labels."""

    reached: ReachedEngine
    place: Place
    objects: Sequence[Labelled]
    decisions: Mapping[str, Decision]
    adopted: Sequence[LabelledApplication]
    as_of: datetime
    #: the applications that this look has adopted
    new: list[str] = field(default_factory=list)


class LabelDiscovery:
    """Looks at the engines that this gateway watches. `watchtower`: the labels of Watchtower are read too."""

    def __init__(self, pool: Pool, vault: Vault, *, watchtower: bool) -> None:
        self._pool = pool
        self._vault = vault
        self._watchtower = watchtower
        self._changes = ChangeBudget(_CHANGES, _CHANGE_INTERVAL)
        self._refusals = ChangeBudget(_REFUSALS, _REFUSAL_INTERVAL)

    async def look(self, reached: ReachedEngine) -> float | None:
        """Look at an engine once; return the seconds until the next time, None for the usual. Raises Postponed."""
        identity, servers = reached.identity, reached.server_ids
        if identity.swarm_starting:
            return _SOON  # services are not listed yet
        async with statement(self._pool) as connection:
            decisions = await labelled.select_decisions(connection, identity.engine_id, servers)
            adopted, as_of = await labelled.select_applications(connection, identity.engine_id, servers)
        # What a label of Watchtower has adopted stays when the setting no longer names Watchtower.
        asked = [labels.ENABLE, *([labels.WATCHTOWER_ENABLE] if self._watchtower or adopted else [])]
        objects = await list_labelled(reached.engine, asked, services=identity.swarm_manager)
        if not objects and not decisions and not adopted:
            return None
        server_id = None if None in servers else servers[0]
        seen = _Seen(reached, Place(identity.engine_id, server_id), objects, decisions, adopted, as_of)
        soon = await self._pause_and_resume(seen)
        soon = await self._decide(seen) or soon
        if seen.new:
            await self._observe(seen)
        async with transaction(self._pool) as connection:
            await labelled.forget_gone(connection, identity.engine_id, servers, [one.object_id for one in objects])
        return _SOON if soon else None

    # -- the applications that are there

    async def _pause_and_resume(self, seen: _Seen) -> bool:
        """Let pushes deploy the applications whose container has the label, and no others.

        Returns whether a container is missing for so short a time that the next look decides.
        """
        missing: dict[str, bool] = {}
        is_open, labelled_ids, labelled_names = False, *_labelled(seen)
        for one in seen.adopted:
            if one.is_busy:
                continue
            with isolate_failures("labels", one.application_id):
                if one.application_id in labelled_ids or one.app_name in labelled_names:
                    if one.missing_for is not None:
                        missing[one.application_id] = False
                    if one.paused in {Paused.UNLABELLED, Paused.GONE} and self._may_change(one.app_name, seen):
                        await self._resume(one, seen)
                elif one.auto_deploy and one.paused is None:
                    found = await self._labels_by_name(one, seen)
                    if found is None and (one.missing_for is None or one.missing_for < _GONE_AFTER):
                        missing[one.application_id] = is_open = True
                    elif (found is None or not labels.is_enabled(found)) and self._may_change(one.app_name, seen):
                        await self._pause(one, Paused.GONE if found is None else Paused.UNLABELLED, seen)
        if missing:
            async with transaction(self._pool) as connection:
                await labelled.mark_missing(connection, missing)
        return is_open

    def _may_change(self, name: str, seen: _Seen) -> bool:
        """Tell whether labels may change the application of this name now. If not, the next look asks again."""
        verdict = self._changes.take((seen.place, name))
        if not verdict.allowed and not verdict.refused_before:
            _LOG.warning(
                "Labels change too often: those of this name count once in five minutes from now on",
                name=name,
                host=seen.reached.identity.name,
            )
        return verdict.allowed

    async def _labels_by_name(self, application: LabelledApplication, seen: _Seen) -> Mapping[str, str] | None:
        """Return the labels of the container or service with the application's name, or None if there is none."""
        engine, name = seen.reached.engine, application.app_name
        if (found := await containers.inspect_raw(engine, name)) is not None:
            return found["Config"].get("Labels") or {}
        if not seen.reached.identity.swarm_manager:
            return None
        service = await services.inspect(engine, name)
        return None if service is None else service.labels

    async def _pause(self, one: LabelledApplication, why: Paused, seen: _Seen) -> None:
        with _acting(seen, "application.update"):
            async with transaction(self._pool) as connection:
                await applications.lock_row(connection, one.application_id)
                if not await labelled.pause(connection, one.application_id, why, seen.as_of):
                    return
                await applications.update_application(
                    connection, self._vault, one.application_id, {"auto_deploy": False}
                )
        _LOG.warning(
            "Pushes no longer deploy an application that labels adopted", application=one.application_id, why=why
        )

    async def _resume(self, one: LabelledApplication, seen: _Seen) -> None:
        with _acting(seen, "application.update"):
            async with transaction(self._pool) as connection:
                await applications.lock_row(connection, one.application_id)
                if not await labelled.resume(connection, one.application_id):
                    return
                await applications.update_application(
                    connection, self._vault, one.application_id, {"auto_deploy": True}
                )
        _LOG.info("Pushes deploy an application that labels adopted again", application=one.application_id)

    # -- what is new

    async def _decide(self, seen: _Seen) -> bool:
        """Decide on containers and services without a decision. Return whether some are left for the next look."""
        candidates = [one for one in seen.objects if self._is_open(one, seen.decisions.get(one.object_id))]
        if not candidates:
            return False
        related = {name for one in candidates for name in _related_names(one)}
        async with statement(self._pool) as connection:
            by_name = await labelled.select_named(connection, related, seen.reached.server_ids)
            by_id = await labelled.select_names(connection, {one.application_id for one in candidates})
        soon, decided = False, 0
        random.shuffle(candidates)  # so that candidates that always fail do not hold up the others for ever
        for one in candidates:
            if _is_made(one, by_name, by_id):
                continue
            if decided == _AT_ONCE or any(
                named.is_busy for name in (one.name, one.name.swapcase()) if (named := by_name.get(name))
            ):
                soon = True
                continue
            if not self._may_change(one.name, seen):
                continue
            decided += 1
            with isolate_failures("labels", one.name):
                room = len(seen.adopted) + decided <= MOST_APPLICATIONS
                soon |= not await self._decide_one(one, seen, by_name.get(one.name), room=room)
        return soon

    def _is_open(self, one: Labelled, known: Decision | None) -> bool:
        """Tell whether it is to be decided: it runs, does not decline, and has no decision that still holds."""
        if not one.is_running or labels.is_declined(one.labels, watchtower=self._watchtower):
            return False
        if known is None or known.labels_hash != labels.fingerprint(one.labels, watchtower=self._watchtower):
            return True
        if known.was_gone and one.is_service:
            return True  # the label was removed, and was set again
        return known.application_id is None and known.age > _RETRY_AFTER

    async def _decide_one(self, one: Labelled, seen: _Seen, named: NamedApplication | None, *, room: bool) -> bool:
        """Adopt the container or service, or record why not. Return whether it is decided."""
        try:
            if await self._keep(one, seen):
                return True
            request = await self._request(one, seen, room=room or named is not None)
            base = await adoption.inspect_existing(
                seen.reached.engine, one.object_id, host_name=seen.reached.identity.name
            )
            if base.name != one.name:
                return False  # it was renamed since it was listed: perhaps a deployment has begun
            with _acting(seen, "application.adopt"):
                async with transaction(self._pool) as connection:
                    if not await self._begin(connection, one, seen):
                        return True
                    adopted = await adopt_labelled(
                        connection,
                        self._vault,
                        base,
                        seen.reached.identity,
                        request,
                        server_id=seen.place.server_id if named is None else named.server_id,
                    )
                    await labelled.end_decision(
                        connection, seen.place, one.object_id, application_id=adopted.application_id
                    )
        except NotFound:
            return True  # it is gone by now
        except BusyError:
            return False
        except (Conflict, InvalidInput, Failed) as error:
            await self._leave_alone(one, seen, truncate(str(error), _MAX_REASON))
        else:
            if adopted.is_new:
                seen.new.append(adopted.application_id)
                _LOG.info(
                    "Adopted what carries a label",
                    application=adopted.application_id,
                    name=one.name,
                    not_carried=list(request.not_carried),
                )
        return True

    async def _observe(self, seen: _Seen) -> None:
        """Store the states of what was adopted: the next regular observation may come in a minute."""
        current = await snapshot.take_snapshot(seen.reached.engine, seen.reached.identity, {})
        for application_id in seen.new:
            async with transaction(self._pool) as connection:
                await observe_new(connection, application_id, seen.place.engine_id, seen.reached.server_ids, current)

    async def _begin(self, connection: Connection, one: Labelled, seen: _Seen) -> bool:
        return await labelled.begin_decision(
            connection,
            seen.place,
            one.object_id,
            name=one.name,
            labels_hash=labels.fingerprint(one.labels, watchtower=self._watchtower),
            known=seen.decisions.get(one.object_id),
        )

    async def _request(self, one: Labelled, seen: _Seen, *, room: bool) -> LabelRequest:
        """Return what its own labels ask for, without those of its image.

        Raises InvalidInput when it cannot be adopted by labels, and Conflict when there is no room for an application.
        """
        if not room:
            raise Conflict(_TOO_MANY)
        if one.by_tasks:
            raise InvalidInput(_BY_TASKS)
        if one.is_one_off:
            raise InvalidInput(_ONE_OFF)
        request = labels.read(await own_labels(seen.reached.engine, one), watchtower=self._watchtower)
        if request is None or not request.enabled:
            raise InvalidInput(_BY_IMAGE)
        return request

    async def _keep(self, one: Labelled, seen: _Seen) -> bool:
        """If it is a copy of a container that was adopted, take over the decision on that. Return whether it was."""
        former = seen.decisions.get(one.copied_from or "")
        if former is None or former.application_id is None:
            return False
        async with transaction(self._pool) as connection:
            if await self._begin(connection, one, seen):
                await labelled.end_decision(connection, seen.place, one.object_id, application_id=former.application_id)
        return True

    async def _leave_alone(self, one: Labelled, seen: _Seen, reason: str) -> None:
        with _acting(seen, "application.adopt") as actor:
            async with transaction(self._pool) as connection:
                if not await self._begin(connection, one, seen):
                    return
                is_new = await labelled.end_decision(
                    connection, seen.place, one.object_id, application_id=None, reason=reason
                )
                if not is_new or one.application_id is not None:
                    return  # another installation of the gateway made it, and replaces it often
                verdict = self._refusals.take(seen.place)
                if not verdict.allowed:
                    return
                unrecorded = verdict.refused_before
                more = (
                    f" ({unrecorded} more were left alone since the last row: gateway apps discovered)"
                    if unrecorded
                    else ""
                )
                event = UnrecordedEvent(
                    actor, Outcome.FAILED, truncate(reason, _MAX_DETAIL - len(more)) + more, one.name
                )
                await audit.insert_unrecorded(connection, [event])
        _LOG.warning("Left alone what carries a label", name=one.name, why=reason)


@contextmanager
def _acting(seen: _Seen, action: str) -> Iterator[Actor]:
    """Let the audit name labels as the actor of every change in the block."""
    actor = Actor("labels", "labels", action, address=seen.reached.identity.name)
    before = CURRENT_ACTOR.set(actor)
    try:
        yield actor
    finally:
        CURRENT_ACTOR.reset(before)


def _labelled(seen: _Seen) -> tuple[set[str], set[str]]:
    """Return the ids of the applications whose original has the label now, and the names of all with the label."""
    enabled = [one for one in seen.objects if not one.by_tasks and labels.is_enabled(one.labels)]
    # Anybody can set the label that says that a container is a copy. So of a copy, only the name counts.
    decided = [
        seen.decisions[one.object_id].application_id
        for one in enabled
        if one.object_id in seen.decisions and one.copied_from is None
    ]
    return {one for one in decided if one is not None}, {one.name for one in enabled}


def _related_names(one: Labelled) -> set[str]:
    """Return the names of applications that it may be a container of."""
    return {one.name, one.name.swapcase(), *names.possible_owners(one.name)}


def _is_made(one: Labelled, by_name: Mapping[str, NamedApplication], by_id: Mapping[str, str]) -> bool:
    """Tell whether it is a container of an application on any server: one that serves, is about to serve, or is kept.

    Its name decides, since anybody can copy the labels.
    """
    if any(name in by_name for name in names.possible_owners(one.name)):
        return True
    app_name = by_id.get(one.application_id or "")
    return app_name is not None and names.is_given(app_name, one.name)

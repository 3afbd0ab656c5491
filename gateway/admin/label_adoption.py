"""Adopt what labels ask for. All that an adoption by a person checks is checked here too."""

from dataclasses import dataclass

from gateway.admin.adoption import followed_reference, is_copy, select_adopted, select_adopted_elsewhere, store_adopted
from gateway.docker.container import adopted_spec
from gateway.docker.container.update_order import reject_impossible
from gateway.docker.engine.client import EngineIdentity
from gateway.model.adoption import AdoptedSpec
from gateway.model.applications import Application
from gateway.model.configuration import Order
from gateway.model.errors import Conflict
from gateway.model.labels import Follow, LabelRequest
from gateway.model.reference import Reference, Tag
from gateway.model.tag_policies import Rule
from gateway.store import applications, labelled, subscriptions
from gateway.store.database import Connection
from gateway.store.encryption import Vault
from gateway.store.labelled import Paused


class BusyError(Exception):
    """A deployment of the application runs: what has its name may be the deployment's."""


@dataclass(frozen=True, slots=True)
class LabelAdoption:
    """The application, and whether it was adopted just now."""

    application_id: str
    is_new: bool


async def adopt_labelled(
    connection: Connection,
    vault: Vault,
    base: AdoptedSpec,
    identity: EngineIdentity,
    request: LabelRequest,
    *,
    server_id: str | None,
) -> LabelAdoption:
    """Adopt what was inspected, as its labels say.

    One that a person adopted, as it is now, stays as it is. One that was recreated since is adopted again. Raises
    Conflict; Failed for an order that cannot be; BusyError.
    """
    if request.order is Order.START_FIRST and not base.is_service:
        reject_impossible(adopted_spec.user_config(base), Order.START_FIRST)
    await labelled.lock_object(connection, base.object_id)
    if (elsewhere := await select_adopted_elsewhere(connection, vault, base, identity, server_id)) is not None:
        return LabelAdoption(elsewhere, is_new=False)
    known = await select_adopted(connection, vault, base, identity, server_id)
    by_labels, followed, paused = False, None, None
    if known is not None:
        await applications.lock_row(connection, known)
        application = await applications.select_application(connection, vault, known)
        by_labels, followed, paused = await labelled.select_subscription(connection, known)
        if await labelled.is_busy(connection, known):
            raise BusyError
        if application.adopted_spec is None or application.adopted_spec.is_service != base.is_service:
            raise Conflict(f"a container and a service are both called {base.name}: rename one of them")
        is_same = application.adopted_spec.object_id == base.object_id
        if (is_same and not by_labels) or is_copy(base, application.adopted_spec):
            return LabelAdoption(known, is_new=False)
    application_id = await store_adopted(
        connection, vault, base, identity, known, name=request.name, server_id=server_id
    )
    application = await applications.select_application(connection, vault, application_id)
    await applications.update_application(connection, vault, application_id, _changes(application, request, paused))
    own = followed_reference(base)
    subscription_id = await _follow(connection, vault, application_id, own, follow=request.follow, former=followed)
    await labelled.upsert_application(
        connection,
        application_id,
        subscription_id=subscription_id,
        not_carried=request.not_carried,
        paused=None if request.auto_deploy else Paused.MONITOR_ONLY,
    )
    return LabelAdoption(application_id, is_new=True)


def _changes(application: Application, request: LabelRequest, paused: Paused | None) -> dict[str, object]:
    """Return what the labels change of the application. What no label names stays as a person left it."""
    changes: dict[str, object] = {}
    if request.name is not None:
        changes["name"] = request.name
    if request.order is not None:
        order = request.order if isinstance(request.order, Order) else None
        changes["configuration"] = application.configuration.model_copy(update={"order": order})
    if not request.auto_deploy:
        changes["auto_deploy"] = False
    elif paused is not None:
        changes["auto_deploy"] = True
    return changes


async def _follow(
    connection: Connection,
    vault: Vault,
    application_id: str,
    own: Reference,
    *,
    follow: Follow | None,
    former: str | None,
) -> str | None:
    """Subscribe to what the label names in place of the image's own tag; return the subscription for it, if any."""
    held = await subscriptions.select_subscriptions(connection, application_id)
    policy = None if follow is None or follow.policy.rule is Rule.EXACT else follow.policy
    repository = own.repository if follow is None or follow.repository is None else follow.repository
    alike = [one for one in held if not one.from_image and (one.repository, one.policy) == (repository, policy)]
    same = next(iter(alike), None)
    if former is not None and (same is None or same.subscription_id != former):
        await subscriptions.delete_subscription(connection, former)
    if follow is None:
        return None
    if policy is None:
        reference = Reference(repository, Tag(follow.policy.pattern))
        await applications.update_application(connection, vault, application_id, {"docker_image": str(reference)})
        await subscriptions.replace_subscription(connection, application_id, reference)
        return None
    await subscriptions.replace_subscription(connection, application_id, None)
    if same is not None:  # a person may have made it
        return former if same.subscription_id == former else None
    return (await subscriptions.insert_subscription(connection, application_id, repository, policy)).subscription_id

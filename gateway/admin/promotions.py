"""Promotions: what followers follow, what they wait for, and what a person asks for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gateway.model.applications import Application
from gateway.model.errors import Conflict, RolloutError
from gateway.model.promotions import Following, Promotion, PromotionState
from gateway.model.reference import Digest, Reference
from gateway.model.registries import select_login
from gateway.model.soaks import Followed
from gateway.queue import promotion
from gateway.store import applications, promotions, registries, soaks
from gateway.store.database import Connection, Pool, statement, transaction
from gateway.store.encryption import Vault

if TYPE_CHECKING:
    from gateway.registry.client import RegistryClient


@dataclass(frozen=True, slots=True)
class Standing:
    """How an application follows another one, what that one runs now, and the promotions so far, newest first."""

    following: Following
    followed: Followed | None
    promotions: list[Promotion]

    @property
    def soaking(self) -> Digest | None:
        """The digest that the followed application runs, unless it is being promoted or was."""
        digest = self.followed.serving if self.followed else None
        over = {one.digest for one in self.promotions if one.state is not PromotionState.WITHDRAWN}
        return digest if digest not in over else None


def following_of(application_id: str, rule: Mapping[str, Any]) -> Following | None:
    """Return how a follower follows, by the rule of its gate; None for a rule that is not valid."""
    from gateway.gates.promotion import PromotionRule

    try:
        parsed = PromotionRule.model_validate(rule)
    except ValidationError:
        return None
    wait = timedelta(seconds=parsed.wait)
    return Following(application_id, parsed.follows, parsed.soak, parsed.mode == "proposal", wait)


async def select_standings(connection: Connection, only: Collection[str] | None) -> list[Standing]:
    """Return the standings of all followers, or of those among `only` these."""
    now = await soaks.current_time(connection)
    found = []
    for application_id, rule in (await promotions.select_followers(connection, only)).items():
        if following := following_of(application_id, rule):
            followed = await soaks.select_followed(connection, following.follows, None, now)
            rows = await promotions.select_promotions(connection, application_id)
            found.append(Standing(following, followed, rows))
    return found


async def promote(
    pool: Pool, vault: Vault, registry: "RegistryClient", application_id: str, digest: Digest | None
) -> Promotion:
    """Queue the deployment of this digest, or of the one that the followed application runs, and return its promotion.

    Raises Conflict when the application follows none, the digest is not proven, or the application's registry does not
    have it; NotFound when the application does not exist.
    """
    async with statement(pool) as connection:
        application = await applications.select_application(connection, vault, application_id)
        rules = await promotions.select_followers(connection, [application_id])
        following = following_of(application_id, rules[application_id]) if rules else None
        if following is None:
            raise Conflict(
                f"{application.name} follows no application. Set that first: gateway gates set {application_id} "
                "promotion"
            )
        now = await soaks.current_time(connection)
        followed = await soaks.select_followed(connection, following.follows, digest, now)
    digest = digest or (followed.serving if followed else None)
    if followed is None or digest is None:
        raise Conflict(f"Application {following.follows}, which {application.name} follows, runs nothing")
    if not followed.is_proven(following.soak):
        raise promotion.not_proven(following, followed, digest)
    reference, obstacle = await find_promoted(pool, vault, registry, application, followed=followed, digest=digest)
    if reference is None or obstacle:
        raise Conflict(obstacle)
    async with transaction(pool) as connection:
        now = await soaks.current_time(connection)
        return await promotion.promote(connection, following, digest, reference, now)


async def withdraw(pool: Pool, application_id: str) -> Promotion:
    """Decline the promotion that waits or is queued, and return it. Raises NotFound, Conflict when it has begun."""
    async with transaction(pool) as connection:
        await applications.require_live(connection, application_id)
        return await promotion.withdraw(connection, application_id, await soaks.current_time(connection))


async def find_promoted(
    pool: Pool,
    vault: Vault,
    registry: "RegistryClient",
    application: Application,
    *,
    followed: Followed,
    digest: Digest,
) -> tuple[Reference | None, str]:
    """Return the follower's image by this digest, and what keeps it from being pulled, or "".

    It is looked for by digest alone, with the follower's login, in the repository of the follower's image.
    """
    if application.reference is None:
        return None, f"{application.name} has no image: set one, whose repository is to have the digest"
    repository = application.reference.repository
    async with statement(pool) as connection:
        configured = await registries.select_registries(connection, vault, repository.domain)
    login = select_login(repository, application.own_login, configured)
    wanted = Reference(repository, None, digest)
    try:
        if await registry.has(wanted, login):
            return wanted, ""
    except RolloutError as error:
        return wanted, error.reason.message
    source = followed.image.repository if followed.image else "REPOSITORY"
    return wanted, (
        f"{repository} does not have {digest}. Copy it there, for example: "
        f"crane copy {source}@{digest} {repository}:TAG"
    )

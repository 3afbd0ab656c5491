"""promotion.*: the images that an application gets from its followed application, which has run them well."""

from typing import Annotated, Literal, Self

from pydantic import Field

from gateway.admin import promotions as admin
from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.admin.promotions import Standing
from gateway.api.procedures._response import Moment, Response
from gateway.api.procedures._visible import visible_to
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.model.api_keys import Permission
from gateway.model.errors import Conflict, NotFound
from gateway.model.promotions import Promotion, PromotionState
from gateway.model.reference import parse_digest
from gateway.store import applications
from gateway.store.database import statement

procedures = Procedures()


class OfApplication(Input):
    application_id: Id


class Promote(OfApplication):
    digest: Annotated[str | None, Field(max_length=100, description="Default: what the followed application runs.")] = (
        None
    )


class PromotionRow(Response):
    """A digest that an application gets from its followed application, and the state of that."""

    application_id: str
    follows: Annotated[str, Field(description="Id of the followed application.")]
    digest: str
    state: Annotated[
        PromotionState | Literal["soaking"], Field(description="soaking: the followed application runs it.")
    ]
    reason: Annotated[str, Field(description="Why it is in this state, where that is not plain.")]
    since: Annotated[Moment | None, Field(description="soaking: since when it has run well; null: it is not well.")]
    due_at: Annotated[Moment | None, Field(description="soaking: when it will be proven if all goes well.")]
    proven_at: Moment | None
    changed_at: Annotated[Moment | None, Field(description="When it entered this state.")]
    deployment_id: Annotated[str | None, Field(description="The deployment of the follower.")]

    @classmethod
    def from_promotion(cls, one: Promotion) -> Self:
        return cls.make(one, since=None, due_at=None)


def rows_of(standing: Standing) -> list[PromotionRow]:
    """Return what is soaking, if anything is, and the promotions so far, newest first."""
    following, digest = standing.following, standing.soaking
    rows = [PromotionRow.from_promotion(one) for one in standing.promotions if one.digest != digest]
    if standing.followed is None or digest is None:
        return rows
    soak, name = standing.followed.soak, standing.followed.name
    since = soak.since if soak else None
    reason = standing.followed.has_left(digest) or ("" if since else f"{name} is {standing.followed.state}")
    soaking = PromotionRow.make(
        application_id=following.application_id,
        follows=following.follows,
        digest=digest,
        state="soaking",
        reason=reason,
        since=since,
        due_at=standing.followed.due_at(following.soak),
        proven_at=None,
        changed_at=None,
        deployment_id=None,
    )
    return [soaking, *rows]


class Filter(Input):
    application_id: Annotated[Id | None, Field(description="Null: those of all applications.")] = None


@procedures.query("promotion.all", gives=list[PromotionRow], raises=(NotFound,), access=KeyAccess.FILTERED)
async def select_all(context: Context, given: Filter) -> Answer:
    """List the promotions of an application, newest first, or of all.

    A restricted key gets only those of its own applications.

    The first row is the digest that the followed application runs now, unless it is promoted already. The list is empty
    for an application without a gate of kind promotion.
    """
    async with statement(context.pool) as connection:
        only = None
        if given.application_id is not None:
            await applications.require_live(connection, given.application_id)
            only = [given.application_id]
        found = await admin.select_standings(connection, only)
        rows = await visible_to(connection, context.caller, [row for one in found for row in rows_of(one)])
    return Answer(rows)


@procedures.mutation("promotion.promote", gives=PromotionRow, raises=(Conflict,), needs=Permission.DEPLOY, queues=True)
async def promote(context: Context, given: Promote) -> Answer:
    """Queue the deployment of a digest that the followed application has proven.

    A digest that was withdrawn, declined or failed before may be promoted again.
    """
    digest = None if given.digest is None else parse_digest(given.digest)
    made = await admin.promote(context.pool, context.vault, context.registry, given.application_id, digest)
    return Answer(
        PromotionRow.from_promotion(made), headers={"X-Deployment-Id": made.deployment_id or ""}, changed=True
    )


@procedures.mutation("promotion.withdraw", gives=PromotionRow, raises=(Conflict,), needs=Permission.DEPLOY)
async def withdraw(context: Context, given: OfApplication) -> Answer:
    """Cancel the promotion that waits, or whose deployment is queued.

    The gateway does not promote this digest again by itself.
    """
    return Answer(PromotionRow.from_promotion(await admin.withdraw(context.pool, given.application_id)))

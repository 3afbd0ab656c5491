"""subscription.*: which pushes an application deploys: a repository and a tag policy."""

from typing import Annotated, Self

from pydantic import Field

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.admin.subscriptions import resolve_repository
from gateway.api.procedures._pagination import Paged, paged
from gateway.api.procedures._response import Moment, Response
from gateway.api.rpc.procedure import Answer, KeyAccess, Procedures
from gateway.model.applications import Subscription
from gateway.model.errors import Conflict
from gateway.model.tag_policies import Rule, TagPolicy
from gateway.store import applications, resource_owners, subscriptions
from gateway.store.database import statement, transaction

procedures = Procedures()

_Globs = Annotated[tuple[str, ...], Field(max_length=32)]


class Create(Input):
    application_id: Id
    repository: Annotated[str, Field(max_length=512)] = ""
    policy: str = "exact"
    pattern: str = ""
    include: _Globs = ()
    exclude: _Globs = ()
    prereleases: bool = False
    allow_downgrade: bool = False


class Named(Input):
    subscription_id: Id


class Reconcile(Input):
    application_id: Id
    seconds: Annotated[
        Annotated[int, Field(ge=0, le=30 * 86_400)] | None,
        Field(description="Seconds between polls. 0: never. Null: the gateway's setting for the registry."),
    ]


class OfApplication(Paged):
    application_id: Id | None = None


class SubscriptionRow(Response):
    """A subscription of an application: a repository and a tag policy."""

    subscription_id: str
    application_id: str
    repository: str
    policy: Rule
    pattern: str
    include: list[str]
    exclude: list[str]
    prereleases: bool
    allow_downgrade: bool
    from_image: Annotated[bool, Field(description="Created from the application's image, and changed with it.")]
    reconcile_seconds: Annotated[
        int | None,
        Field(
            description="Seconds between polls for missed pushes. 0: never. Null: the gateway's setting for the "
            "registry."
        ),
    ]
    created_at: Moment

    @classmethod
    def from_subscription(cls, subscription: Subscription) -> Self:
        policy = subscription.policy
        return cls.make(
            subscription,
            repository=str(subscription.repository),
            policy=policy.rule,
            pattern=policy.pattern,
            include=list(policy.include),
            exclude=list(policy.exclude),
            prereleases=policy.prereleases,
            allow_downgrade=policy.downgrades,
            reconcile_seconds=subscription.poll_interval,
        )


@procedures.mutation("subscription.create", gives=SubscriptionRow, raises=(Conflict,))
async def create(context: Context, given: Create) -> Answer:
    """Subscribe an application to a repository, with a tag policy."""
    policy = TagPolicy.parse(
        given.policy,
        given.pattern,
        include=given.include,
        exclude=given.exclude,
        prereleases=given.prereleases,
        downgrades=given.allow_downgrade,
    )
    async with transaction(context.pool) as connection:
        await applications.require_live(connection, given.application_id)
        repository = await resolve_repository(connection, given.application_id, given.repository)
        made = await subscriptions.insert_subscription(connection, given.application_id, repository, policy)
    return Answer(SubscriptionRow.from_subscription(made))


@procedures.query("subscription.all", gives=list[SubscriptionRow], access=KeyAccess.FILTERED)
async def select_all(context: Context, given: OfApplication) -> Answer:
    """List subscriptions, newest first.

    With applicationId, only those of this application. A restricted key gets only those of its own applications.
    """
    page, grants = given.page, context.caller.grants
    async with statement(context.pool) as connection:
        only = await resource_owners.select_covered(connection, grants) if grants else None
        found = await subscriptions.select_subscriptions_page(connection, given.application_id, only=only, page=page)
    return paged(found, page, lambda one: (one.created_at, one.subscription_id), SubscriptionRow.from_subscription)


@procedures.query("subscription.one", gives=SubscriptionRow)
async def select_one(context: Context, given: Named) -> Answer:
    """Return a subscription."""
    async with statement(context.pool) as connection:
        return Answer(
            SubscriptionRow.from_subscription(
                await subscriptions.select_subscription(connection, given.subscription_id)
            )
        )


@procedures.mutation("subscription.remove", gives=SubscriptionRow)
async def remove(context: Context, given: Named) -> Answer:
    """Remove a subscription, and return it as it was."""
    async with transaction(context.pool) as connection:
        return Answer(
            SubscriptionRow.from_subscription(
                await subscriptions.delete_subscription(connection, given.subscription_id)
            )
        )


@procedures.mutation("subscription.reconcile", gives=list[SubscriptionRow])
async def reconcile(context: Context, given: Reconcile) -> Answer:
    """Set how often the gateway polls for missed pushes of an application, and return its subscriptions."""
    async with transaction(context.pool) as connection:
        await applications.require_live(connection, given.application_id)
        await subscriptions.update_reconcile(connection, given.application_id, given.seconds)
        found = await subscriptions.select_subscriptions(connection, given.application_id)
    return Answer([SubscriptionRow.from_subscription(one) for one in found])

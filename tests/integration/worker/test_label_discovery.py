"""Containers and services that carry labels are adopted, on a real engine; what their labels do not ask for is not."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import until
from gateway.docker.engine import containers
from gateway.docker.engine.client import ReachedEngine
from gateway.model.applications import Application
from gateway.model.configuration import Order
from gateway.model.deployments import Status
from gateway.store import applications, audit, labelled, subscriptions
from gateway.store.database import transaction
from gateway.store.labelled import Discovered, Paused
from gateway.worker import label_discovery
from gateway.worker.label_discovery import LabelDiscovery
from tests.support.adoption_host import BUSY, Host
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, a_gateway

ON = {"gateway.enable": "true"}
WT = "com.centurylinklabs.watchtower"


@dataclass
class Labels:
    """What a gateway with GATEWAY_DISCOVER=labels sees of the host's engine."""

    host: Host
    reached: ReachedEngine

    def gateway(self, *, watchtower: bool = False) -> LabelDiscovery:
        return LabelDiscovery(self.host.pool, VAULT, watchtower=watchtower)

    async def look(self, *, watchtower: bool = False) -> float | None:
        return await self.gateway(watchtower=watchtower).look(self.reached)

    async def application(self, name: str = "") -> Application | None:
        async with self.host.pool.acquire() as connection:
            found = await applications.select_named(connection, name or self.host.name, None)
            return await applications.select_application(connection, VAULT, found) if found else None

    async def adopted(self, name: str = "") -> Application:
        found = await self.application(name)
        assert found is not None
        return found

    async def followed(self, application: Application) -> list[str]:
        async with self.host.pool.acquire() as connection:
            found = await subscriptions.select_subscriptions(connection, application.application_id)
        return [f"{one.repository.path.rpartition('/')[2]} {one.policy}" for one in found]

    async def said(self, name: str = "") -> Discovered:
        async with self.host.pool.acquire() as connection:
            found = await labelled.select_discovered(connection, 500)
        (one,) = [one for one in found if one.name == (name or self.host.name)]
        return one

    async def recreate(self, **body: Any) -> dict[str, Any]:
        await containers.remove(self.host.engine, (await self.host.inspect())["Id"])
        return await self.host.run(**body)

    async def rows(self, statement: str, *given: object) -> list[Any]:
        async with self.host.pool.acquire() as connection:
            return list(await connection.fetch(statement, *given))

    async def execute(self, statement: str, *given: object) -> None:
        async with self.host.pool.acquire() as connection:
            await connection.execute(statement, *given)


@pytest.fixture
async def seen(host: Host) -> AsyncIterator[Labels]:
    identity = await host.engine.identify()
    labels = Labels(host, ReachedEngine(host.engine, identity, [None]))
    yield labels
    # Other tests share the database.
    await labels.execute("DELETE FROM labelled_objects")
    await labels.execute("DELETE FROM labelled_applications")


async def test_a_labelled_container_is_adopted_once_and_deployed_by_a_push(seen: Labels, pushes: Pushes) -> None:
    host = seen.host
    found = await host.run(Labels={**ON, "gateway.name": "The shop", "gateway.order": "stop-first"}, **BUSY)
    await asyncio.gather(*(seen.look() for _ in range(3)))  # as several gateways on one database
    assert await seen.look() is None
    application = await seen.adopted()
    assert (application.name, application.configuration.order) == ("The shop", Order.STOP_FIRST)
    assert await seen.followed(application) == [f"{pushes.path.rpartition('/')[2]} exact latest"]
    assert await host.inspect() == found, "nothing is changed before a push"
    async with host.pool.acquire() as connection:
        entries = await audit.select_entries(connection, application_id=application.application_id)
    assert {(one.via, one.who, one.action) for one in entries} == {("labels", "labels", "application.adopt")}

    await pushes("v2")
    assert (await host.deploy(application)).status is Status.SUCCEEDED
    assert len(await host.names()) == 2, "the adopted one is kept"
    for _ in range(2):
        assert await seen.look() is None
    assert await seen.application(f"{host.name}.old.{found['Id'][:12]}") is None
    assert (await seen.said()).paused is None

    await host.delete(application)
    await seen.look()
    assert await seen.application() is None


@pytest.mark.long
async def test_what_a_person_deleted_comes_back_only_with_another_container(seen: Labels) -> None:
    await seen.host.run(Labels=ON, **BUSY)
    await seen.look()
    await seen.host.delete(await seen.adopted())
    await seen.look()
    assert await seen.application() is None
    said = await seen.said()
    assert (said.exists, said.reason) == (False, "")
    await seen.recreate(Labels=ON, **BUSY)
    await seen.look()
    assert await seen.application() is not None


@pytest.mark.parametrize(
    "label",
    [
        "gateway.application",
        *(
            pytest.param(label, marks=pytest.mark.long)
            for label in ("gateway.deployment", "gateway.origin", "gateway.attempt")
        ),
    ],
)
async def test_a_forged_label_of_the_gateway_gains_nothing(seen: Labels, label: str) -> None:
    victim = await seen.host.run(f"{seen.host.name}-victim", Labels=ON, **BUSY)
    await seen.look()
    target = await seen.adopted(f"{seen.host.name}-victim")
    values = {"gateway.application": target.application_id, "gateway.origin": victim["Id"]}
    await seen.host.run(Labels={label: values.get(label, "1")}, **BUSY)  # does not ask
    await seen.look()
    assert await seen.application() is None
    await seen.recreate(Labels={**ON, label: values.get(label, "1")}, **BUSY)
    await seen.look()
    assert await seen.application() is None
    assert (await seen.adopted(f"{seen.host.name}-victim")) == target


@pytest.mark.long
async def test_a_label_of_the_image_asks_for_nothing(seen: Labels, pushes: Pushes) -> None:
    await push(Image("v1", config={"Labels": ON}), pushes.name())
    await seen.host.engine.images.pull(pushes.name())
    await seen.host.run(Labels=ON, **BUSY)
    await seen.look()
    assert await seen.application() is None
    assert "the label comes with its image" in (await seen.said()).reason


@pytest.mark.long
async def test_what_cannot_be_adopted_is_left_alone_with_a_reason(seen: Labels) -> None:
    await seen.host.run(Labels={**ON, "gateway.folow": "stable"}, **BUSY)
    await seen.look()
    assert await seen.application() is None
    assert "no such label is read: gateway.folow" in (await seen.said()).reason
    async with seen.host.pool.acquire() as connection:
        (entry, *_) = await audit.select_entries(connection, action="application.adopt")
    assert (entry.who, entry.outcome, entry.target) == ("labels", "failed", seen.host.name)

    # It is looked at again after a while, and said once.
    await seen.execute("UPDATE labelled_objects SET decided_at = now() - interval '1 hour'")
    await seen.look()
    async with seen.host.pool.acquire() as connection:
        assert (await audit.select_entries(connection, action="application.adopt"))[0].number == entry.number


async def test_an_application_is_deployed_by_pushes_for_as_long_as_its_container_carries_the_label(
    seen: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seen.host.run(Labels=ON, **BUSY)
    await seen.look()
    unlabelled = await seen.recreate(**BUSY)
    await seen.look()
    application = await seen.adopted()
    assert (application.auto_deploy, (await seen.said()).paused) == (False, Paused.UNLABELLED)
    assert await seen.host.inspect() == unlabelled, "what runs is never touched"

    before = application.environment_id
    await seen.execute("INSERT INTO projects (project_id, name) VALUES ('shop', 'shop')")
    await seen.execute("INSERT INTO environments (environment_id, project_id, name) VALUES ('shop', 'shop', 'e')")
    await seen.execute("UPDATE applications SET environment_id = 'shop' WHERE app_name = $1", seen.host.name)
    again = await seen.recreate(Labels={**ON, "gateway.follow": "stable"}, **BUSY)
    await seen.look()
    application = await seen.adopted()
    assert (application.auto_deploy, (await seen.said()).paused) == (True, None)
    assert application.adopted_spec is not None
    assert application.adopted_spec.object_id == again["Id"], "it is adopted as it is now"
    assert application.docker_image == seen.host.pushes.name("stable")

    assert application.environment_id == "shop", "it stays where a person moved it"
    await seen.execute("UPDATE applications SET environment_id = $1 WHERE app_name = $2", before, seen.host.name)
    await seen.execute("DELETE FROM projects WHERE project_id = 'shop'")

    await containers.remove(seen.host.engine, again["Id"])
    assert await seen.look() is not None, "Compose may be about to create it again"
    assert (await seen.adopted()).auto_deploy
    monkeypatch.setattr(label_discovery, "_GONE_AFTER", timedelta(0))
    await seen.look()
    assert ((await seen.adopted()).auto_deploy, (await seen.said()).paused) == (False, Paused.GONE)
    await seen.host.run(Labels=ON, **BUSY)
    await seen.look()
    assert (await seen.adopted()).auto_deploy


@pytest.mark.long
async def test_what_a_person_set_stays(seen: Labels) -> None:
    await seen.host.run(Labels=ON, **BUSY)
    await seen.look()
    application = await seen.adopted()
    async with seen.host.pool.acquire() as connection:
        changes = {"auto_deploy": False, "name": "mine", "configuration": {"order": "stop-first"}}
        await applications.update_application(connection, VAULT, application.application_id, changes)
    for body in ({}, {"Labels": ON}):
        await seen.recreate(**body, **BUSY)
        await seen.look()
        await seen.look()
        now = await seen.adopted()
        assert (now.auto_deploy, now.name, now.configuration.order) == (False, "mine", Order.STOP_FIRST)


@pytest.mark.long
async def test_a_policy_replaces_the_subscription_to_the_tag_and_changes_with_the_label(
    seen: Labels, pushes: Pushes
) -> None:
    repository = pushes.path.rpartition("/")[2]
    await seen.host.run(Labels={**ON, "gateway.follow": "semver ^1.2"}, **BUSY)
    await seen.look()
    assert await seen.followed(await seen.adopted()) == [f"{repository} semver ^1.2"]
    await seen.recreate(Labels={**ON, "gateway.follow": f"{pushes.address}/other glob v*"}, **BUSY)
    await seen.look()
    assert await seen.followed(await seen.adopted()) == ["other glob v*"]
    await seen.recreate(Labels=ON, **BUSY)
    await seen.look()
    assert await seen.followed(await seen.adopted()) == [f"{repository} exact latest"]


@pytest.mark.long
async def test_a_container_that_a_person_adopted_stays_as_it_is(seen: Labels) -> None:
    found = await seen.host.run(Labels={**ON, "gateway.name": "label", "gateway.order": "stop-first"}, **BUSY)
    before = await seen.host.adopt()
    assert await seen.look() is None
    assert await seen.adopted() == before
    # A kept one that somebody started again is none of its own.
    await seen.host.pushes("v2")
    await seen.host.deploy(before)
    await containers.start(seen.host.engine, found["Id"])
    assert await seen.look() is None
    assert await seen.application(f"{seen.host.name}.old.{found['Id'][:12]}") is None


@pytest.mark.long
async def test_another_application_with_the_name_is_named_as_the_reason_until_it_is_gone(seen: Labels) -> None:
    async with transaction(seen.host.pool) as connection:
        other = await applications.insert_application(
            connection, application_id=None, name="other", app_name=seen.host.name, description=None
        )
    await seen.host.run(Labels=ON, **BUSY)
    await seen.look()
    assert f"another application, {other}, is called {seen.host.name}" in (await seen.said()).reason
    await seen.execute("DELETE FROM applications WHERE application_id = $1", other)
    await seen.look()
    assert await seen.application() is None, "not at each look"
    await seen.execute("UPDATE labelled_objects SET decided_at = now() - interval '1 hour'")
    await seen.look()
    assert await seen.application() is not None


@pytest.mark.long
async def test_a_look_adopts_a_few_and_the_next_one_goes_on(seen: Labels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_discovery, "_AT_ONCE", 2)
    every = [f"{seen.host.name}-{number}" for number in range(5)]
    for name in every:
        await seen.host.run(name, Labels=ON, **BUSY)
    looks = 0
    while await seen.look() is not None:
        looks += 1
    assert looks == 2
    assert None not in [await seen.application(name) for name in every]
    monkeypatch.setattr(label_discovery, "MOST_APPLICATIONS", 5)
    await seen.host.run(Labels=ON, **BUSY)
    await seen.look()
    assert "labels adopt at most" in (await seen.said()).reason


@pytest.mark.long
async def test_a_container_is_not_adopted_again_while_a_deployment_replaces_it(seen: Labels, pushes: Pushes) -> None:
    await seen.host.run(Labels=ON, **BUSY)
    await seen.look()
    application = await seen.adopted()
    await seen.recreate(Labels=ON, **BUSY)
    async with transaction(seen.host.pool) as connection:
        await connection.execute(
            "INSERT INTO deployments (application_id, kind, forced, title, reference, next_attempt_at)"
            " VALUES ($1, 'deploy', true, 'waits', $2, now() + interval '1 day')",
            application.application_id,
            pushes.name(),
        )
    assert await seen.look() is not None
    assert await seen.adopted() == application
    await seen.execute("DELETE FROM deployments WHERE application_id = $1", application.application_id)
    assert await seen.look() is None
    assert (await seen.adopted()).adopted_spec != application.adopted_spec


@pytest.mark.long
async def test_containers_of_watchtower_are_adopted_where_the_setting_says_so(seen: Labels) -> None:
    labels = {f"{WT}.enable": "true", f"{WT}.monitor-only": "true", f"{WT}.scope": "prod"}
    await seen.host.run(Labels=labels, **BUSY)
    await seen.look()
    assert await seen.application() is None
    await seen.look(watchtower=True)
    application, said = await seen.adopted(), await seen.said()
    assert (application.auto_deploy, said.paused) == (False, Paused.MONITOR_ONLY)
    assert said.not_carried == [f"{WT}.scope: a gateway adopts every scope"]
    # The setting no longer says so: what was adopted stays.
    await seen.recreate(Labels={f"{WT}.enable": "true"}, **BUSY)
    await seen.look(watchtower=True)
    assert (await seen.adopted()).auto_deploy
    await seen.look()
    assert (await seen.adopted()).auto_deploy


@pytest.mark.long
async def test_a_rollback_to_a_container_that_was_removed_adopts_no_copy(seen: Labels, pushes: Pushes) -> None:
    found = await seen.host.run(Labels=ON, **BUSY)
    await seen.look()
    application = await seen.adopted()
    await pushes("v2")
    await seen.host.deploy(application)
    await containers.remove(seen.host.engine, found["Id"])
    assert (await seen.host.roll_back(application)).status is Status.SUCCEEDED
    copy = await seen.host.inspect()
    assert copy["Id"] != found["Id"]
    before = await seen.adopted()
    for _ in range(2):
        await seen.execute("DELETE FROM labelled_objects")
        assert await seen.look() is None
        assert await seen.adopted() == before


@pytest.mark.long
async def test_a_container_that_compose_runs_once_is_left_alone(seen: Labels) -> None:
    await seen.host.run(Labels={**ON, "com.docker.compose.oneoff": "True"}, **BUSY)
    await seen.look()
    assert await seen.application() is None
    assert "to run once" in (await seen.said()).reason


@pytest.mark.long
async def test_an_engine_at_two_addresses_is_adopted_from_once(
    seen: Labels, pushes: Pushes, dockerd: PrivateEngine
) -> None:
    """Another gateway may reach the engine as a server, while it is the own one of this gateway."""
    async with transaction(seen.host.pool) as connection:
        # The test's gateway reaches it at both addresses: whichever adopts first, it can roll out.
        await connection.execute(
            "INSERT INTO servers (server_id, name, host) VALUES ('twin', 'twin', $1)", dockerd.host
        )
    await seen.host.run(Labels=ON, **BUSY)
    own, twin = seen.reached, ReachedEngine(seen.host.engine, seen.reached.identity, ["twin"])
    await asyncio.gather(*(seen.gateway().look(one) for one in (own, twin, own, twin)))
    (only,) = await seen.rows("SELECT application_id FROM applications WHERE app_name = $1", seen.host.name)
    await pushes("v2")
    assert (await seen.host.deploy(await seen.host.application(only["application_id"]))).status is Status.SUCCEEDED
    await asyncio.gather(*(seen.gateway().look(one) for one in (own, twin)))
    assert len(await seen.rows("SELECT FROM applications WHERE app_name = $1", seen.host.name)) == 1
    assert await seen.rows("SELECT FROM labelled_objects WHERE reason <> ''") == []
    await seen.execute("DELETE FROM applications WHERE server_id = 'twin'")
    await seen.execute("DELETE FROM servers WHERE server_id = 'twin'")


@pytest.mark.long
async def test_a_gateway_that_is_killed_while_it_adopts_has_adopted_all_or_nothing(
    seen: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seen.host.run(Labels={**ON, "gateway.follow": "semver ^1"}, **BUSY)

    class KilledError(BaseException):
        """Ends the look, as a kill does."""

    for place, name in (
        (labelled, "begin_decision"),
        (applications, "insert_application"),
        (subscriptions, "insert_subscription"),
        (labelled, "upsert_application"),
        (labelled, "end_decision"),
    ):
        original = getattr(place, name)

        async def killed(*given: Any, original: Any = original, **named: Any) -> None:
            await original(*given, **named)
            raise KilledError

        with monkeypatch.context() as patched:
            patched.setattr(place, name, killed)
            with pytest.raises(KilledError):
                await seen.look()
        assert await seen.application() is None
        assert await seen.rows("SELECT FROM labelled_objects") == []
    assert await seen.look() is None
    assert [one.rpartition(" ")[2] for one in await seen.followed(await seen.adopted())] == ["^1"]


@pytest.mark.long
async def test_a_gateway_adopts_after_an_event_and_what_it_missed_when_it_comes_back(
    seen: Labels, dockerd: PrivateEngine
) -> None:
    async def adopted(name: str = "") -> Application | None:
        return await seen.application(name)

    async with a_gateway(seen.host.pool, seen.host.engine, dockerd.host, GATEWAY_DISCOVER="labels"):
        await asyncio.sleep(1)  # the first look finds nothing
        await seen.host.run(Labels=ON, **BUSY)
        await until(adopted, within=20)
    await seen.host.run(f"{seen.host.name}-2", Labels=ON, **BUSY)
    assert await seen.application(f"{seen.host.name}-2") is None
    async with a_gateway(seen.host.pool, seen.host.engine, dockerd.host, GATEWAY_DISCOVER="labels"):
        await until(lambda: adopted(f"{seen.host.name}-2"), within=20)


@pytest.mark.long
@pytest.mark.parametrize("order", ["start-first", "stop-first"])
@pytest.mark.parametrize("behaviour", [Behaviour.SERVES, Behaviour.EXITS])
async def test_looks_during_a_rollout_change_nothing(
    seen: Labels, pushes: Pushes, monkeypatch: pytest.MonkeyPatch, order: str, behaviour: Behaviour
) -> None:
    monkeypatch.setattr(label_discovery, "_GONE_AFTER", timedelta(0))
    await seen.host.run(Labels={**ON, "gateway.order": order})
    await seen.look()
    application = await seen.adopted()
    ended = asyncio.Event()

    async def keep_looking() -> int:
        looks = 0
        while not ended.is_set():
            await asyncio.gather(*(seen.look() for _ in range(2)))
            looks += 1
            assert (await seen.adopted()).auto_deploy
        return looks

    looking = asyncio.create_task(keep_looking())
    for version in ("v2", "v3"):
        await pushes(version, behaviour=behaviour)
        deployment = await seen.host.deploy(application)
        assert (deployment.status is Status.SUCCEEDED) == (behaviour is Behaviour.SERVES), deployment.reason
    ended.set()
    assert await looking > 2
    assert (await seen.adopted()).adopted_spec == application.adopted_spec
    assert len(await seen.rows("SELECT FROM applications WHERE starts_with(app_name, $1)", seen.host.name)) == 1
    assert len(await seen.rows("SELECT FROM labelled_applications")) == 1


async def test_labels_that_change_all_the_time_leave_few_rows_in_the_audit(
    seen: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_discovery, "_CHANGES", 4)
    monkeypatch.setattr(label_discovery, "_CHANGE_INTERVAL", 3600.0)
    gateway = seen.gateway()
    await seen.host.run(Labels=ON, **BUSY)
    await gateway.look(seen.reached)
    application = await seen.adopted()
    for number in range(6):
        await seen.recreate(Labels={**ON, "gateway.follow": f"v{number}"} if number % 2 else {}, **BUSY)
        await gateway.look(seen.reached)
    changes = await seen.rows(
        "SELECT DISTINCT call_id FROM audit WHERE application_id = $1", application.application_id
    )
    assert len(changes) == 4, "its adoption, and the first three changes"
    other = f"{seen.host.name}-other"
    await seen.host.run(other, Labels=ON, **BUSY)
    await gateway.look(seen.reached)
    assert (await seen.adopted(other)).auto_deploy, "it waits for nothing that others do"
    monkeypatch.setattr(label_discovery, "_CHANGE_INTERVAL", 0.001)
    await seen.gateway().look(seen.reached)
    assert await seen.followed(await seen.adopted()) == [f"{seen.host.pushes.path.rpartition('/')[2]} exact v5"]


async def test_what_is_left_alone_under_ever_new_names_leaves_few_rows_in_the_audit(
    seen: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_discovery, "_REFUSALS", 2)
    gateway = seen.gateway()
    (before,) = await seen.rows("SELECT coalesce(max(number), 0) AS newest FROM audit")
    for number in range(4):
        name = f"{seen.host.name}-run-{number}"
        await seen.host.run(name, Labels={**ON, "com.docker.compose.oneoff": "True"}, **BUSY)
        await gateway.look(seen.reached)
        assert "docker compose run made it" in (await seen.said(name)).reason
    failed = await seen.rows(
        "SELECT target FROM audit WHERE number > $1 AND via = 'labels' ORDER BY number", before["newest"]
    )
    assert [row["target"] for row in failed] == [f"{seen.host.name}-run-{number}" for number in range(2)]

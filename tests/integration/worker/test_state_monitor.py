"""Tests the observed state of applications: alerts once, and healing where configured."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gateway.cli.demo.process import until
from gateway.docker import snapshot
from gateway.docker.engine import containers, images
from gateway.docker.engine.client import Engine
from gateway.docker.engine.containers import Container
from gateway.docker.engine.labels import ADOPTED_COPY, APPLICATION, DEPLOYMENT, DIGEST, INSTALLATION, SPEC
from gateway.docker.snapshot import ListedContainer, Snapshot, observe
from gateway.model.applications import Desired
from gateway.model.deployments import FINISHED, Deployment, Kind, Status
from gateway.model.errors import Failed
from gateway.model.observations import ExpectedState, Observation, ObservedState, State
from gateway.model.reference import Reference
from gateway.store import observations
from gateway.store.database import transaction
from gateway.worker.alerts import Alert, AlertQueue
from tests.support.api_client import Web
from tests.support.real_parts import Pushes
from tests.support.rollout_env import DeployedApp

# -- what is seen, without an engine

EXPECTED = ExpectedState(
    application_id="app",
    name="Web",
    app_name="web",
    installation_id="i",
    desired=Desired.RUNNING,
    heal=False,
    as_adopted=False,
    deployment_id="d",
    digest="sha256:1",
    spec_hash="s",
    has_running_deployment=False,
    is_monitored=False,
    has_queued_deployment=False,
)
LABELS = {
    APPLICATION: "app",
    INSTALLATION: "i",
    DEPLOYMENT: "d",
    DIGEST: "sha256:1",
    SPEC: "s",
}
UP = ListedContainer("c", "web", "running", "Up 5 minutes", "sha256:image", LABELS)


def _there(*listed: ListedContainer) -> Snapshot:
    return Snapshot({one.name: one for one in listed}, {}, {})


@pytest.mark.parametrize(
    ("there", "state"),
    [
        (UP, State.RUNNING),
        (replace(UP, status="Up 5 minutes (healthy)"), State.HEALTHY),
        (replace(UP, status="Up 5 minutes (unhealthy)"), State.UNHEALTHY),
        (replace(UP, status="Up 1 second (health: starting)"), State.RUNNING),
        (replace(UP, state="restarting", status="Restarting (3) 2 seconds ago"), State.RESTARTING),
        (replace(UP, state="exited", status="Exited (0) 2 seconds ago"), State.STOPPED),
        (replace(UP, state="removing", status="Removal In Progress"), State.MISSING),
        (replace(UP, state="paused", status="Up 5 minutes (Paused)"), State.STOPPED),
        (replace(UP, name="other", labels={}), State.MISSING),
        (replace(UP, name="renamed"), State.DRIFTED),
        (replace(UP, labels={}), State.DRIFTED),
        (replace(UP, labels={**LABELS, APPLICATION: "theirs"}), State.DRIFTED),
        (replace(UP, labels={**LABELS, INSTALLATION: "theirs"}), State.DRIFTED),
        (replace(UP, labels={**LABELS, DIGEST: "sha256:2"}), State.DRIFTED),
        (replace(UP, labels={**LABELS, SPEC: "t"}), State.DRIFTED),
    ],
)
def test_the_state_of_a_container_is_observed(there: ListedContainer, state: State) -> None:
    assert observe(EXPECTED, _there(there)).state is state


@pytest.mark.parametrize(
    ("digests", "state"),
    [
        ({"sha256:1"}, State.RUNNING),
        ({"sha256:2"}, State.DRIFTED),
        ({"sha256:2", "sha256:1"}, State.RUNNING),
        (set(), State.RUNNING),  # untagged by force, it has none any more
    ],
)
def test_labels_do_not_override_the_image(digests: set[str], state: State) -> None:
    assert observe(EXPECTED, _there(replace(UP, digests=frozenset(digests)))).state is state


def test_an_adopted_container_is_observed_without_labels() -> None:
    adopted = replace(EXPECTED, as_adopted=True, deployment_id=None, digest=None, spec_hash=None)
    assert observe(adopted, _there(replace(UP, labels={}))).state is State.RUNNING
    assert observe(adopted, _there(UP)).state is State.DRIFTED
    made_again = replace(UP, labels={**LABELS, DEPLOYMENT: ADOPTED_COPY})
    assert observe(adopted, _there(made_again)).state is State.RUNNING


@pytest.mark.parametrize(
    ("labels", "state"),
    [
        ({}, State.RUNNING),  # the original, which was kept
        (LABELS, State.RUNNING),  # it was no longer kept, so the rollback made it again
        ({**LABELS, APPLICATION: "theirs"}, State.DRIFTED),
        ({**LABELS, INSTALLATION: "theirs"}, State.DRIFTED),
        ({**LABELS, DIGEST: "sha256:2"}, State.DRIFTED),
        ({**LABELS, SPEC: "t"}, State.DRIFTED),
    ],
)
def test_what_a_rollback_to_the_adopted_container_brought_is_no_drift(labels: dict[str, str], state: State) -> None:
    back = replace(EXPECTED, as_adopted=True, deployment_id=None)
    assert observe(back, _there(replace(UP, labels=labels))).state is state
    other = replace(UP, labels=LABELS, digests=frozenset({"sha256:2"}))
    assert observe(back, _there(other)).state is State.DRIFTED


def test_an_application_in_other_hands_is_not_healed() -> None:
    wants = replace(EXPECTED, heal=True)
    assert wants.should_heal(ObservedState(State.MISSING))
    assert not wants.should_heal(ObservedState(State.DRIFTED, is_newer=True)), "the database is older than it"
    assert not wants.should_heal(ObservedState(State.UNHEALTHY)), "its watch window saw to that"
    for attended in (
        {"is_monitored": True},
        {"has_queued_deployment": True},
        {"heal": False},
        {"desired": Desired.STOPPED},
    ):
        assert not replace(wants, **attended).should_heal(ObservedState(State.MISSING))


def test_a_stopped_application_that_runs_has_drifted() -> None:
    stopped = replace(EXPECTED, desired=Desired.STOPPED)
    assert observe(stopped, _there(UP)).state is State.DRIFTED
    down = observe(stopped, _there(replace(UP, state="exited", status="Exited (0)")))
    assert (down.state, stopped.should_alert(down.state)) == (State.STOPPED, False)


# -- on an engine

# Shorter than the interval of the observation, so that only an event can cause it: seconds.
_A_LOOK = 50


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Alert]:
    """The alerts; what is seen is believed at once, unless a deployment waits that may change it."""
    alerts: list[Alert] = []
    monkeypatch.setattr(AlertQueue, "send", lambda _self, alert: alerts.append(alert))

    def alert_delay(_state: State, *, waits: bool) -> timedelta:
        return timedelta(hours=waits)

    monkeypatch.setattr("gateway.worker.state_monitor.alert_delay", alert_delay)
    return alerts


async def _observed(app: DeployedApp) -> Observation | None:
    async with app.pool.acquire() as connection:
        return (await observations.select_observations(connection, [app.application_id])).get(app.application_id)


async def _until(app: DeployedApp, state: State) -> Observation:
    async def look() -> Observation | None:
        found = await _observed(app)
        return found if found is not None and found.state is state else None

    return await until(look, within=_A_LOOK)


def _of(app: DeployedApp, told: list[Alert]) -> list[str]:
    return [alert.title.partition(": ")[2] for alert in told if alert.title.startswith(app.application_id)]


async def test_a_manual_stop_is_observed_and_alerted_once(app: DeployedApp, pushes: Pushes, told: list[Alert]) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await _until(app, State.RUNNING)
    serving = await app.serving()
    await containers.stop(app.engine, serving.container_id, grace=0)
    await _until(app, State.STOPPED)
    await until(lambda: _is(_of(app, told) == ["stopped"]))
    await containers.start(app.engine, serving.container_id)
    await _until(app, State.RUNNING)
    await containers.stop(app.engine, serving.container_id, grace=0)
    await _until(app, State.STOPPED)
    assert _of(app, told) == ["stopped"]
    assert (await app.newest()).kind is Kind.DEPLOY, "it is left as it is"


async def _is(so: bool) -> bool | None:
    return so or None


async def test_a_manual_removal_is_missing_and_alerted(app: DeployedApp, pushes: Pushes, told: list[Alert]) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await containers.remove(app.engine, (await app.serving()).container_id)
    missing = await _until(app, State.MISSING)
    assert f"app-{app.application_id}" in missing.detail
    await until(lambda: _is(_of(app, told) == ["missing"]))
    assert (await app.newest()).status is Status.SUCCEEDED, "the outcome stays what it was"


async def _quiet(_detail: str) -> None:
    """Nobody watches the pull."""


async def _put_right(app: DeployedApp) -> Deployment:
    async def look() -> Deployment | None:
        found = await app.newest()
        return found if found.title.startswith("Heal: ") and found.status in FINISHED else None

    return await until(look, within=_A_LOOK)


async def _take_its_name(app: DeployedApp, serving: Container, **otherwise: object) -> None:
    """Let another container, made otherwise, be called as the one that serves."""
    body = {"Image": serving.image_id, "Labels": serving.labels, **otherwise}
    other = f"{serving.name}-other"
    await containers.start(app.engine, await containers.create(app.engine, other, body, {}))
    made = await containers.inspect(app.engine, other)
    assert made is not None
    await containers.rename(app.engine, serving, f"{serving.name}-away")
    await containers.rename(app.engine, made, serving.name)


async def _removed(app: DeployedApp, container: Container) -> bool | None:
    """Remove it as a person does, again if the engine fails because the gateway renames it at that moment."""
    with suppress(Failed):
        await containers.remove(app.engine, container.container_id)
        return True
    return None


@pytest.mark.parametrize(
    "harm",
    [
        "removed",
        "replaced by another image",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("stopped", "replaced")),
    ],
)
async def test_a_manual_change_is_healed_if_configured(
    app: DeployedApp, pushes: Pushes, told: list[Alert], harm: str
) -> None:
    await app.set(configuration={"heal": True})
    digest = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    # What served is brought back, and not what the tag means by now.
    other_digest = await pushes("v2")
    serving = await app.serving()
    if harm == "stopped":
        await containers.stop(app.engine, serving.container_id, grace=0)
    if harm == "replaced":
        await _take_its_name(app, serving, Labels={**serving.labels, SPEC: "changed"})
    if harm == "replaced by another image":
        other = Reference.parse(pushes.name()).with_digest(other_digest)
        await images.pull(app.engine, other, None, progress=_quiet, stall=20)
        await _take_its_name(app, serving, Image=f"{other.repository}@{other.digest}")
    if harm != "stopped":
        await until(lambda: _removed(app, serving))
    back = await _put_right(app)
    await app.set(configuration={})
    assert (back.status, back.digest, back.forced) == (Status.SUCCEEDED, digest, False)
    assert (await app.serving()).image.endswith(digest)
    await _until(app, State.RUNNING)
    assert len(_of(app, told)) == 1


async def test_a_container_image_is_inspected_once(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    known: snapshot.KnownImages = {}
    identity = await app.engine.identify()
    first = await snapshot.take_snapshot(app.engine, identity, known)
    inspect = images.inspect

    async def not_again(asked: Engine, name: str) -> Any:
        assert asked is not app.engine, "it is asked for a second time"
        return await inspect(asked, name)  # by the gateway that observes meanwhile

    monkeypatch.setattr(images, "inspect", not_again)
    assert await snapshot.take_snapshot(app.engine, identity, known) == first
    assert (await app.serving()).container_id in known


async def test_a_requested_stop_is_not_alerted(app: DeployedApp, pushes: Pushes, told: list[Alert]) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await app.ask(Kind.STOP)
    await _until(app, State.STOPPED)
    await app.ask(Kind.START)
    await _until(app, State.RUNNING)
    assert _of(app, told) == []


# -- as it is told


async def test_the_observed_state_is_shown_beside_the_last_outcome(web: Web) -> None:
    await web.mutate("application.create", name="Web", applicationId="app", dockerImage="acme/web")
    assert (await web.query("application.one", applicationId="app"))["observed"] is None
    await web.pool.execute("INSERT INTO observations (application_id, state, detail) VALUES ('app', 'missing', 'gone')")
    one = await web.query("application.one", applicationId="app")
    assert (one["observed"]["state"], one["observed"]["detail"]) == ("missing", "gone")
    (row,) = await web.query("application.all")
    (found,) = (await web.query("application.search"))["items"]
    (project,) = await web.query("project.all")
    assert row["observed"] == one["observed"]
    assert found["observed"] == project["applications"][0]["observed"] == "missing"
    async with web.client.get("/metrics") as answer:
        assert 'gateway_applications{state="missing"} 1.0' in await answer.text()


async def test_a_stale_observation_is_unknown(web: Web) -> None:
    await web.mutate("application.create", name="Web", applicationId="app", dockerImage="acme/web")
    await web.pool.execute(
        "INSERT INTO observations (application_id, state, observed_at)"
        " VALUES ('app', 'healthy', now() - interval '1 h')"
    )
    assert (await web.query("application.one", applicationId="app"))["observed"]["state"] == "unknown"
    assert (await web.query("application.search"))["items"][0]["observed"] == "unknown"


async def test_two_gateways_alert_once(web: Web) -> None:
    await web.mutate("application.create", name="Web", applicationId="app", dockerImage="acme/web")
    await web.pool.execute("INSERT INTO observations (application_id, state) VALUES ('app', 'missing')")

    async def tell() -> bool:
        async with transaction(web.pool) as connection:
            return await observations.mark_notified(connection, "app", State.MISSING)

    assert [await tell(), await tell()] == [True, False]


async def test_an_observation_from_before_a_rollout_is_discarded(web: Web) -> None:
    await web.mutate("application.create", name="Web", applicationId="app", dockerImage="acme/web")
    await web.mutate("application.deploy", applicationId="app")
    found: dict[str, Any] = {"app": observe(EXPECTED, _there())}
    async with transaction(web.pool) as connection:
        _, as_of = await observations.select_expected(connection, "nowhere", [None])
        await connection.execute(
            "UPDATE deployments SET status = 'failed', finished_at = clock_timestamp() + interval '1 s'"
        )
        assert await observations.upsert_observations(connection, found, as_of) == {}
        later = as_of + timedelta(seconds=9)
        assert set(await observations.upsert_observations(connection, found, later)) == {"app"}

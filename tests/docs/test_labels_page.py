"""The labels that docs/labels.md prints are read as it says, and the steps from Watchtower lead here."""

import re
from pathlib import Path

import orjson
import pytest
import yaml

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.process import until
from gateway.model.errors import InvalidInput
from gateway.model.labels import read
from tests.support.adoption_host import BUSY, Host
from tests.support.command_line import CommandLine, gateway_process
from tests.support.databases import database_settings

PAGE = (Path(__file__).parents[2] / "docs/labels.md").read_text(encoding="utf-8")
_THEIRS = "com.centurylinklabs.watchtower"


def _rows(heading: str) -> list[list[str]]:
    """Return the cells of a section's table."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def test_the_file_that_is_printed_asks_for_adoption() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    request = read(yaml.safe_load(block)["services"]["web"]["labels"], watchtower=False)
    assert request is not None
    assert (request.enabled, request.order) == (True, "stop-first")


def test_every_value_of_follow_that_is_printed_is_one() -> None:
    values = [cell.strip("`") for cell, _ in _rows("Say what is followed")]
    assert len(values) > 3
    for value in values:
        assert read({"gateway.enable": "true", "gateway.follow": value}, watchtower=False)


def test_every_label_that_is_printed_is_known_and_no_other() -> None:
    printed = {cell.strip("`") for cell, _ in _rows("Label a container")}
    with pytest.raises(InvalidInput) as refused:
        read({"gateway.enable": "true", "gateway.x": ""}, watchtower=False)
    assert printed == set(str(refused.value).partition("there are ")[2].split(", "))


def test_every_label_of_watchtower_is_carried_left_alone_or_named_as_printed() -> None:
    for cell, what in _rows("The labels of Watchtower"):
        named = re.findall(r"`([^`]+)`", cell)[0]
        name, _, value = named.partition("=")
        label = _THEIRS if name == "The label itself" or not name else f"{_THEIRS}{name}" if name[0] == "." else name
        labels = {f"{_THEIRS}.enable": "true", label: value or "x"}
        if what.startswith("Left alone"):
            with pytest.raises(InvalidInput, match=re.escape(label)):
                read(labels, watchtower=True)
            continue
        request = read(
            {**labels, f"{_THEIRS}.lifecycle.post-update": "x"} if "Other" in cell else labels, watchtower=True
        )
        assert request is not None
        assert ("Not carried" in what) == bool(request.not_carried), label


@pytest.mark.long
async def test_the_steps_from_watchtower_adopt_what_it_updated_and_restart_nothing(
    host: Host, dockerd: PrivateEngine, postgres: str, tmp_path: Path
) -> None:
    enabled = {f"{_THEIRS}.enable": "true"}
    for name, labels in (
        ("web", {**enabled, f"{_THEIRS}.scope": "prod"}),
        ("built", {**enabled, f"{_THEIRS}.no-pull": "true"}),
        ("plain", {}),
    ):
        await host.run(f"{host.name}-{name}", Labels=labels, **BUSY)
    before = {name: await host.inspect(name) for name in host.made}
    settings = {**await database_settings(postgres, "watchtower"), "GATEWAY_DISCOVER": "labels,watchtower"}
    async with gateway_process(tmp_path, dockerd.host, settings) as gateway:
        assert isinstance(gateway, CommandLine)

        async def decided() -> list[dict[str, object]] | None:
            rows = orjson.loads(await gateway.cli("apps", "discovered", "--json"))
            return rows if len(rows) == 2 else None

        built, web = await until(decided, within=60)
        assert (built["name"], built["applicationId"]) == (f"{host.name}-built", None)
        assert web["notCarried"] == [f"{_THEIRS}.scope: a gateway adopts every scope"]
        shown = await gateway.cli("apps", "discovered")
        assert re.search(rf"^{host.name}-built +left alone +{_THEIRS}.no-pull asks for no pull", shown, re.MULTILINE)
        assert re.search(rf"^{host.name}-web +{host.name}-web +{_THEIRS}.scope", shown, re.MULTILINE)
        await gateway.cli("apps", "adopt", f"{host.name}-plain")
        assert {name: await host.inspect(name) for name in host.made} == before
        audit = await gateway.cli("audit", "--action", "application.adopt", "--json")
        assert {one["who"] for one in orjson.loads(audit)} == {"labels"}
        await gateway.cli("deploy", f"{host.name}-web", "--follow")

"""Declarations that are made up: what is applied is there, and what is there is exported."""

import copy
import os
from typing import Any

import asyncpg
import pytest

from tests.support.api_client import Web
from tests.support.declarations import Maker, exported
from tests.support.declaring import Declaring

_EDITS, _HISTORIES = int(os.environ.get("DECLARED_EDITS", "1000")), 4


async def _is_as_declared(declaring: Declaring, document: dict[str, Any]) -> None:
    again = await declaring.plan(document, prune=True)
    assert [(one["path"], one["changes"]) for one in again["objects"] if one["action"] != "unchanged"] == []
    found = (await declaring.web.query("declaration.export"))["document"]
    found.pop("keys", None)  # the key of the test itself
    assert sorted_lists(found) == sorted_lists(exported(document))


def sorted_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: sorted_lists(part) for name, part in value.items()}
    return sorted(map(sorted_lists, value), key=str) if isinstance(value, list) else value


async def test_a_made_up_declaration_is_applied_and_exported(web: Web) -> None:
    declaring = Declaring(web)
    document = Maker(7).document()
    await declaring.apply(document, prune=True)
    await _is_as_declared(declaring, document)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, _HISTORIES + 1))
async def test_after_each_of_a_thousand_edits_the_state_is_that_of_the_file(web: Web, seed: int) -> None:
    maker, declaring = Maker(seed), Declaring(web)
    document = maker.document()
    for number in range(_EDITS // _HISTORIES):
        await declaring.apply(document, prune=True)
        if number % 10 == 0:
            await _is_as_declared(declaring, document)
            back = (await web.query("declaration.export"))["document"] | {"declaration": "made-up"}
            assert not (await declaring.plan(back))["differs"]
            await web.empty("applications WHERE desired = 'deleted'")
        before = copy.deepcopy(document)
        while document == before:
            maker.edit(document)
    await declaring.apply(document, prune=True)
    await _is_as_declared(declaring, document)


SMALL: dict[str, Any] = {
    "declaration": "made-up",
    "projects": {
        "shop": {
            "env": {"A": "1"},
            "environments": {
                "staging": {
                    "applications": {
                        "web": {
                            "dockerImage": "acme/web:1",
                            "envFrom": {"B": {"env": "B"}},
                            "subscriptions": [{"policy": "any"}],
                            "gates": {"maturity": {"rule": {"age": "1h"}}},
                        }
                    }
                }
            },
        }
    },
    "groups": {"all": {"members": {"web": 1}}},
    "webhooks": {"ci": {"source": "github"}},
}
TABLES = (
    "applications",
    "projects",
    "environments",
    "subscriptions",
    "gates",
    "groups",
    "endpoints",
    "declared_objects",
)


class _Cut:
    """Ends the connection before the statement of this number, as a kill of the gateway does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        for name in ("execute", "fetch", "fetchrow", "fetchval"):
            monkeypatch.setattr(asyncpg.Connection, name, self._cutting(getattr(asyncpg.Connection, name)))

    def _cutting(self, original: Any) -> Any:
        async def run(connection: Any, *given: Any, **options: Any) -> Any:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    connection.terminate()
                    raise asyncpg.ConnectionDoesNotExistError("cut")
            return await original(connection, *given, **options)

        return run


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_wherever_an_apply_is_cut_the_next_one_ends_there(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    cut, declaring, number, expected = _Cut(monkeypatch), Declaring(web), 0, None
    while True:
        planned = (await declaring.plan(SMALL))["objects"]
        cut.left, whole = number, True
        for one in planned:
            if one["action"] != "unchanged":
                status, _ = await declaring.apply_one(SMALL, one)
                if status != 200:
                    whole = False
                    break
        cut.left = None
        await declaring.apply(SMALL)
        assert not (await declaring.plan(SMALL, prune=True))["differs"]
        counts = {table: await web.count(table) for table in TABLES}
        expected = expected or counts
        assert counts == expected
        if whole:
            break
        await web.empty("declared_objects", "groups", "applications", "projects", "endpoints")
        number += 1
    assert number > 50

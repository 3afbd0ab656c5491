"""From which commit a sender says that it built an image; a body of any form names a commit or none."""

from contextlib import suppress
from typing import Any

import orjson
import pytest

from gateway.model.commits import REVISION, SOURCE
from gateway.model.errors import InvalidInput
from gateway.sources import SOURCES, Request, Trust, detect
from tests.support.each_case import each_case
from tests.support.samples import OURS, Sample, named

SHA = "ab" * 20
WEB = {SOURCE: "https://github.com/acme/web", REVISION: SHA}
LAB = {SOURCE: "https://gitlab.example.com/acme/web", REVISION: SHA}


def package(**version: Any) -> dict[str, Any]:
    return {"package": {"package_version": version}, "repository": {"html_url": "https://github.com/acme/web"}}


@pytest.mark.parametrize(
    ("source", "body", "settings", "origin"),
    [
        ("generic", {"image": "a", "source": "git@github.com:acme/web.git", "revision": SHA}, {}, WEB),
        ("generic", {"at": {"repo": WEB[SOURCE], "sha": SHA}}, {"source": "/at/repo", "revision": "/at/sha"}, WEB),
        ("generic", {"image": "a", "source": "/ci/pipelines", "revision": SHA}, {}, None),
        ("generic", {"image": "a", "source": WEB[SOURCE], "revision": "main"}, {}, None),
        ("generic", [{"image": "a", "source": WEB[SOURCE], "revision": SHA}], {}, None),
        ("gitlab", {"project": {"web_url": LAB[SOURCE]}, "object_attributes": {"sha": SHA}}, {}, LAB),
        ("gitlab", {"repository": {"homepage": LAB[SOURCE]}, "sha": SHA}, {}, LAB),
        ("gitlab", {"project": {"web_url": LAB[SOURCE]}, "commit_url": f"{LAB[SOURCE]}/-/commit/{SHA}"}, {}, LAB),
        ("github", package(target_oid=SHA), {}, WEB),
        ("github", package(target_oid="", container_metadata={"labels": {"revision": SHA}}), {}, WEB),
        ("github", package(), {}, None),
    ],
)
def test_a_sender_names_the_commit(source: str, body: Any, settings: dict[str, str], origin: Any) -> None:
    request = Request({}, orjson.dumps(body))
    assert SOURCES[source].origin(request, Trust("", settings=settings)) == origin


@each_case("sample", OURS, ids=named)
def test_any_body_names_a_commit_or_none(sample: Sample) -> None:
    with suppress(InvalidInput):
        found = SOURCES[sample.source].origin(sample.request, sample.trust)
        assert found is None or found.keys() == {SOURCE, REVISION}
    with suppress(InvalidInput):
        detect.origin(sample.request)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'{"object_kind": []}', b'{"package": 1}', b"payload=%7B%7D"])
def test_a_body_that_is_not_understood_names_none(body: bytes) -> None:
    for one in (*SOURCES.values(), None):
        try:
            assert (
                detect.origin(Request({}, body)) if one is None else one.origin(Request({}, body), Trust(""))
            ) is None
        except InvalidInput:
            continue

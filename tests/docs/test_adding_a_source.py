"""The example of a source is one: it imports what exists, and understands a signed push."""

import hashlib
import hmac
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.model.errors import Unauthenticated
from gateway.sources import Request, Source, Trust

PAGE = Path(__file__).parents[2] / "docs/adding-a-source.md"
BODY = b'{"id": "1", "host": "registry.example.com", "repository": "acme/web", "tag": "v1"}'


@pytest.fixture
def source() -> Source:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    names: dict[str, Any] = {}
    exec(found[1], names)  # noqa: S102 - the page is ours
    example = names["SOURCE"]
    assert isinstance(example, Source)
    return example


def test_the_example_understands_a_signed_push(source: Source) -> None:
    signature = hmac.new(b"secret", BODY, hashlib.sha256).hexdigest()
    request, trust = Request({"x-example-signature": signature}, BODY), Trust("secret")
    source.verify(request, trust)
    parsed = source.parse(request, trust)
    assert [str(event.reference) for event in parsed.events] == ["registry.example.com/acme/web:v1"]


def test_the_example_rejects_another_signature(source: Source) -> None:
    with pytest.raises(Unauthenticated):
        source.verify(Request({"x-example-signature": "00"}, BODY), Trust("secret"))

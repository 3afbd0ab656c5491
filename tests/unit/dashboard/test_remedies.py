"""On the pages, remedies name buttons where there are some, and commands nowhere else."""

import re
from importlib.resources import files

import pytest

from gateway.dashboard.remedies import REMEDIES, remedy
from gateway.model import errors
from gateway.model.errors import Code

#: what no page does
_ONLY_COMMANDS = {Code.REGISTRY_UNTRUSTED}


@pytest.mark.parametrize("code", Code)
def test_a_page_names_a_command_only_where_no_page_does_the_same(code: Code) -> None:
    shown = remedy(errors.REMEDIES[code], code)
    named = re.search(
        r"\bgateway (apps|approvals|deploy|deployments|gates|registries|servers)\b|application\.save", shown
    )
    assert (named is not None) == (code in _ONLY_COMMANDS), shown


def test_each_button_that_a_remedy_names_is_on_a_page() -> None:
    folder = files("gateway.dashboard") / "templates"
    pages = "".join(one.read_text(encoding="utf-8") for one in folder.iterdir() if one.name.endswith(".html"))
    named = {one for text in REMEDIES.values() for one in re.findall("“([^”]+)”", text)}
    assert [one for one in named if f'_("{one}")' not in pages] == []
    assert named

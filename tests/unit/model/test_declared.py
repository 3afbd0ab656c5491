"""Tests of declarations as text and values."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from gateway.admin.declared.schema import json_schema
from gateway.model.applications import parse_environment
from gateway.model.configuration import Configuration
from gateway.model.declared import yaml_text
from gateway.model.declared.forms import ApplicationForm, DeclarationForm, MountForm, PortForm
from gateway.model.declared.objects import objects_of, parse_form
from gateway.model.declared.secrets import dotted, secret_paths
from gateway.model.declared.states import Secret, Variables, differences
from gateway.model.declared.variables import write_variables
from gateway.model.declared.yaml_text import InvalidYaml
from gateway.model.errors import InvalidInput
from gateway.model.mounts import Mount
from gateway.model.ports import Port

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["on", "no", "null", "~", "<<", "=", "0x1", "0o7", "1:30", "1e3", "!x", "&a", "*a", "- a", "a: b", "# c", "a\n\n"]
)
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(-1e15, 1e15) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)
_QUIET = settings(max_examples=30, deadline=None, derandomize=True, database=None)


@_QUIET
@given(_VALUE)
def test_what_is_written_as_yaml_is_read_as_the_same_value(value: object) -> None:
    read = yaml_text.parse(yaml_text.dump(value)).value
    assert (read, repr(read)) == (value, repr(value))


def test_a_plain_word_is_what_yaml_1_2_takes_it_for() -> None:
    text = "[on, no, 22:30, 2026-01-01, 1_000, true, ~, 1.5, -3, 1.10.0]"
    expected = ["on", "no", "22:30", "2026-01-01", "1_000", True, None, 1.5, -3, "1.10.0"]
    assert yaml_text.parse(text).value == expected


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("a:\n  b: 1\n  b: 2\n", "line 3, column 3", "the key 'b' stands at line 2, column 3 already"),
        ("a: 0755", "line 1, column 4", "begins with 0"),
        ("a: 0x1F", "line 1, column 4", "quote it"),
        ("a: 1e999", "line 1, column 4", "too large"),
        ("a: !secret x", "line 1, column 4", "the tag !secret means nothing here"),
        ("a: *b", "line 1, column 4", "no anchor &b"),
        ("a: &b [*b]", "line 1, column 8", "stands inside of what it names"),
        ("[" * 60, "line 1, column 52", "at most 50 deep"),
        ("? [a]\n: b", "line 1, column 3", "a key is a text"),
        ("a: 1\n---\nb: 2", "line 2, column 1", "one document"),
        ("a: [1,\nb", "line 3", "expected"),
        ("a: '\x07'", "line 1", "control characters"),
        (" " * (1024**2 + 1), "line 1", "at most"),
    ],
)
def test_what_is_no_declaration_is_refused_with_its_line_and_column(text: str, where: str, why: str) -> None:
    with pytest.raises(InvalidYaml) as caught:
        yaml_text.parse(text)
    assert str(caught.value).startswith(where)
    assert why in str(caught.value)


def test_aliases_may_repeat_a_value_but_not_a_million_times() -> None:
    again = yaml_text.parse("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]").value
    assert again == {"a": {"x": 1}, "b": {"y": 2, "x": 1}, "c": [{"x": 1}, {"x": 1}]}
    bomb = "- &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"- &a{number} [{','.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 9)
    )
    with pytest.raises(InvalidYaml, match="with those that aliases repeat"):
        yaml_text.parse(bomb)


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("a: 1\nb: \ud800", "line 2, column 4", "surrogate"),
        (f"a: {'9' * 399}", "line 1, column 4", "too large"),
        (
            "".join(f"a{one}: &a{one} {'[' * 40}{f'*a{one - 1}' if one else 1}{']' * 40}\n" for one in range(30)),
            "line 2, column 49",
            "nested",
        ),
    ],
)
def test_hostile_text_is_refused_as_what_is_no_yaml(text: str, where: str, why: str) -> None:
    with pytest.raises(InvalidYaml, match=f"^{where}: .*{why}"):
        yaml_text.parse(text)


@_QUIET
@given(
    st.dictionaries(
        st.from_regex(r"\A[A-Z_]{1,3}\Z"), st.text(st.sampled_from("ab'\"\\\n #=${}")) | st.text("aé\t\n'"), max_size=4
    )
)
def test_variables_are_written_so_that_they_are_read_again(variables: dict[str, str]) -> None:
    try:
        text = write_variables(variables)
    except InvalidInput:
        return  # no kind of quotes says it
    assert parse_environment(text or "") == variables


def test_a_declaration_says_of_an_application_all_that_the_api_does() -> None:
    def names(model: type[BaseModel]) -> set[str]:
        return set(model.model_fields)

    assert names(Configuration) <= names(ApplicationForm)
    assert names(PortForm) == names(Port) - {"port_id"}
    assert names(MountForm) == names(Mount) - {"mount_id", "known_as"} | {"content_from"}


def test_an_error_names_its_field_as_it_is_written() -> None:
    for given_, field in (
        ({"applications": {"web": {"memory_limit": "1g"}}}, "applications.web.memory_limit"),
        ({"applications": {"web": {"passwordFrom": {"env": "A", "file": "b"}}}}, "applications.web.passwordFrom"),
        ({"applications": {"web": {"ports": [{"targetPort": 80}]}}}, "applications.web.ports.0.publishedPort"),
        ({"applications": {"web": {"env": {"FLAG": True}}}}, "applications.web.env.FLAG"),
        ({"projects": {"a": {"environments": {"b": {"envFrom": {"C": 1}}}}}}, "projects.a.environments.b.envFrom.C"),
    ):
        with pytest.raises(InvalidInput) as caught:
            parse_form(DeclarationForm, given_)
        assert caught.value.field == field


def test_what_an_object_refers_to_is_applied_before_it() -> None:
    def follows(name: str) -> dict[str, object]:
        return {"gates": {"promotion": {"rule": {"follows": name}}}}

    declared = parse_form(
        DeclarationForm,
        {
            "keys": {"ci": {"scope": "read"}},
            "applications": {"c": follows("b"), "b": follows("Default/production/a"), "a": {}, "x": follows("y"),
                             "y": follows("x")},
            "projects": {"p": {"environments": {"e": {"applications": {"d": {}}}}}},
            "servers": {"s": {"host": "unix:///s"}},
        },
    )  # fmt: skip
    names = [str(one.path) for one in objects_of(declared)]
    assert names[:3] == ["server s", "project p", "environment p/e"]
    assert names[-1] == "key ci"
    assert [name for name in names if name in {"application a", "application b", "application c"}] == [
        "application a",
        "application b",
        "application c",
    ]
    assert len(names) == 10


def test_each_secret_has_its_path() -> None:
    document = {
        "applications": {
            "workFrom": {
                "env": {"PlainFrom": "x"},
                "envFrom": {"A": {"env": "A"}, "B": "unchanged"},
                "mounts": [{"target": "/a", "contentFrom": {"file": "a"}}],
                "gates": {"fromFrom": {"kind": "external", "secretFrom": {"env": "S"}, "rule": {"urlFrom": "x"}}},
                "labels": {"comesFrom": "here"},
            }
        },
        "webhooks": {"hub": {"source": "github", "settings": {"xFrom": "y"}, "secretFrom": {"env": "H"}}},
    }
    assert [dotted(path) for path, _ in secret_paths(document)] == [
        "applications.workFrom.envFrom.A",
        "applications.workFrom.envFrom.B",
        "applications.workFrom.mounts.0.contentFrom",
        "applications.workFrom.gates.fromFrom.secretFrom",
        "webhooks.hub.secretFrom",
    ]


def test_a_difference_shows_no_secret() -> None:
    before = {
        "password": Secret("old"),
        "env": Variables({"A": "old", "B": "old"}),
        "gates": {"g": {"s": Secret("old")}},
    }
    after = {
        "password": Secret("new"),
        "env": Variables({"A": "new", "C": "new"}),
        "gates": {"g": {"s": Secret("new")}},
    }
    found = differences(before, after)
    assert [one.field for one in found] == ["password", "env", "gates.g"]
    assert found[1].after == "C added, A changed, B removed"
    assert "old" not in repr(found)
    assert "new" not in repr(found)


def test_the_schema_for_editors_is_that_of_the_forms() -> None:
    kept = Path(__file__).parents[3] / "docs" / "declared.schema.json"
    assert json.loads(kept.read_text(encoding="utf-8")) == json_schema(), "run make schema"

"""The settings of an application are validated when they are saved."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.model.applications import parse_environment
from gateway.model.configuration import Configuration, parse_command
from gateway.model.errors import InvalidInput
from gateway.model.slug import slug


def test_an_environment_is_read_as_the_documentation_prints_it() -> None:
    text = "DATABASE_URL=postgresql://... \n REDIS_URL=redis://..."
    assert parse_environment(text) == {"DATABASE_URL": "postgresql://...", "REDIS_URL": "redis://..."}


def test_a_quoted_value_may_span_lines() -> None:
    assert parse_environment('KEY="one\ntwo"\n# a comment\nexport B=2') == {"KEY": "one\ntwo", "B": "2"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=a#b", "a"),
        ("A=a #b", "a"),
        ('A="a#b"', "a#b"),
        (r'A="a\"b"', r"a\"b"),
        (r'A="{\"a\": 1}" # why', r"{\"a\": 1}"),
        (r'A="a\nb\tc"', "a\nb\\tc"),
        (r"A='a\nb'", r"a\nb"),
        ('A=`it\'s "so"`', 'it\'s "so"'),
        ("A=`one\ntwo`", "one\ntwo"),
        ("A: b", "b"),
        ("A:  'b' # c", "b"),
        ("A: b=c", "b=c"),
        ("A = b ", "b"),
        ("A=it's", "it's"),
        ('A="b" c', '"b" c'),
        ("A=x" + " " * 40_000 + "y", "x" + " " * 40_000 + "y"),
    ],
)
def test_a_value_is_read_as_npms_dotenv_reads_it(text: str, value: str) -> None:
    assert parse_environment(text) == {"A": value}


@pytest.mark.parametrize("text", ["no value", "A=1\nB", "=1"])
def test_a_line_that_sets_nothing_is_named(text: str) -> None:
    with pytest.raises(InvalidInput, match="line"):
        parse_environment(text)


def test_a_command_is_split_as_a_shell_would() -> None:
    assert parse_command("redis-server --save '60 1'") == ["redis-server", "--save", "60 1"]
    with pytest.raises(InvalidInput, match="characters"):
        parse_command("a" * 100_000)


@given(st.text("ab \t\n\\'\"é#", max_size=20))
def test_a_command_is_split_as_pythons_shlex_does(text: str) -> None:
    try:
        words = shlex.split(text)
    except ValueError:
        with pytest.raises(InvalidInput):
            parse_command(text)
    else:
        assert parse_command(text) == words


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Production API", "production-api"), ("  Ünïcode!  ", "n-code"), ("!!!", "app"), ("A", "app-a")],
)
def test_a_name_becomes_a_containers(name: str, expected: str) -> None:
    assert expected == slug(name)


def test_the_configuration_of_the_documentation_is_accepted() -> None:
    configuration = Configuration.model_validate(
        {
            "memoryLimit": "2048MB",
            "cpuLimit": "0.5",
            "replicas": 3,
            "ports": [{"targetPort": 3000, "publishedPort": 3000}],
            "command": "redis-server --appendonly yes",
            "volumes": [{"source": "redis-data", "target": "/data", "type": "volume"}],
        }
    )
    assert [mount.source for mount in configuration.mounts] == ["redis-data"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"memoryLimit": "lots"},
        {"cpuLimit": "-1"},
        {"replicas": 0},
        {"replicas": 1001},
        {"replicas": True},
        {"drain": True},
        {"watch": False},
        {"healthDeadline": True},
        {"ports": [{"targetPort": 0, "publishedPort": 80}]},
        {"ports": [{"targetPort": 80, "publishedPort": 70000}]},
        {"mounts": [{"type": "bind", "source": "relative", "target": "/data"}]},
        {"mounts": [{"type": "volume", "source": "../escape", "target": "/data"}]},
        {"mounts": [{"type": "volume", "source": "data", "target": "relative"}]},
        {"command": "unclosed 'quote"},
        {"networks": ["../escape"]},
        {"labels": {"gateway.application": "mine"}},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_configuration_that_means_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Configuration.model_validate(wrong)

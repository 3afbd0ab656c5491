"""References between variables are resolved; for a missing variable the error says where to set it."""

import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.model.errors import InvalidInput
from gateway.model.interpolation import has_references, references, resolve


def test_an_application_names_its_project_its_environment_and_itself() -> None:
    found = resolve(
        "URL=https://${{project.DOMAIN}}/${{ environment.TIER }}\nHOME=${{URL}}/home\nPLAIN=$HOME ${HOME}",
        environment="TIER=${{project.PREFIX}}-live\nUNUSED=${{GONE}}",
        project="DOMAIN=example.com\nPREFIX=eu\nAGAIN=${{DOMAIN}}",
    )
    assert found == {
        "URL": "https://example.com/eu-live",
        "HOME": "https://example.com/eu-live/home",
        "PLAIN": "$HOME ${HOME}",
    }


def test_values_over_several_lines_are_resolved() -> None:
    found = resolve("KEY=${{project.PEM}}", environment=None, project='PEM="-----BEGIN\nabc=\n-----END"')
    assert found == {"KEY": "-----BEGIN\nabc=\n-----END"}


@pytest.mark.parametrize(
    ("own", "environment", "project", "told"),
    [
        (
            "A=${{project.B}}",
            "",
            "",
            r"A refers to \$\{\{project.B\}\}, which the project .* set B in env with project.update",
        ),
        ("A=${{environment.B}}", "", "B=1", "which the environment does not have: .* environment.update"),
        ("A=${{B}}", "B=1", "B=1", "which the application does not have: .* application.saveEnvironment"),
        ("A=${{}}", "", "", "set it in env"),
        ("A=${{secrets.B}}", "", "", r"\$\{\{secrets.B\}\}"),
        ("A=${{project.B}}", "", "B=${{C}}", r"project.B refers to \$\{\{C\}\}, which the project does not have"),
        ("A=${{project.B}}", "C=1", "B=${{environment.C}}", "cannot refer to an environment's"),
        ("A=${{B}}\nB=${{A}}", "", "", "in a circle: A refers to B refers to A"),
        ("A=${{A}}", "", "", "in a circle: A refers to A"),
        ("\n".join(f"A{n}=${{{{A{n + 1}}}}}" for n in range(100)) + "\nA100=", "", "", "32 deep"),
        ("A=" + "${{B}}" * 100 + "\nB=" + "${{C}}" * 100 + "\nC=" + "c" * 100, "", "", "A becomes longer"),
        ("\n".join(f"A{n}=${{{{B}}}}" for n in range(100)) + "\nB=" + "b" * 100_000, "", "", "together"),
    ],
)
def test_invalid_references_are_rejected(own: str, environment: str, project: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        resolve(own, environment=environment, project=project)


_FRAGMENTS = (
    "A=", "B=", "export ", "x", " ", "#", "\n", "\r", "\\n", "\\r", "\\", '"', "'", "`",
    "${{", "}}", "${{A}}", "${{project.P}}", "${{ environment.E }}", "project.P",
)  # fmt: skip


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from(_FRAGMENTS), max_size=12).map("".join))
@example('A="${{x\\n${{project.P}}"')
@example("A='${{x\r${{project.P}}'")
@example("A=${{B}}\\nB='${{x\r${{project.P}}'")
def test_a_variable_of_the_project_reaches_no_value_unless_the_text_is_known_to_name_it(own: str) -> None:
    secrets = {"project.P": "hush-project", "environment.E": "hush-environment"}
    try:
        values = resolve(own, environment="E=hush-environment", project="P=hush-project").values()
    except InvalidInput:
        return
    used = {named for named, secret in secrets.items() if any(secret in value for value in values)}
    assert used <= references(own)


def test_a_comment_names_nothing() -> None:
    assert references("# A=${{project.P}}\nA=${{B}}\nB=${{ project.Q }}") == {"project.Q"}


def test_most_name_nothing() -> None:
    assert not has_references("A=$B ${C} {{D}}")
    assert not has_references(None)
    assert has_references("A=${{B}}")


def test_openings_without_an_end_are_text() -> None:
    assert resolve("A=" + "${{" * 1000, environment=None, project=None) == {"A": "${{" * 1000}


def test_values_that_are_too_long_together_are_refused_before_they_are_made() -> None:
    made = "B=" + "x" * 100_000 + "\n" + "\n".join(f"A{number}=${{{{B}}}}" for number in range(5000))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match="longer than Linux can pass to a program"):
            resolve(made, environment=None, project=None)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()

"""Variables name others: what is there is put in, and what is not is told with where to set it."""

import pytest

from gateway.errors import InvalidInput
from gateway.variables import names_others, resolve


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


def test_values_over_several_lines_are_put_in_whole() -> None:
    found = resolve("KEY=${{project.PEM}}", environment=None, project='PEM="-----BEGIN\nabc=\n-----END"')
    assert found == {"KEY": "-----BEGIN\nabc=\n-----END"}


@pytest.mark.parametrize(
    ("own", "environment", "project", "told"),
    [
        (
            "A=${{project.B}}",
            "",
            "",
            r"A names \$\{\{project.B\}\}, which the project .* set B in env with project.update",
        ),
        ("A=${{environment.B}}", "", "B=1", "which the environment does not have: .* environment.update"),
        ("A=${{B}}", "B=1", "B=1", "which the application does not have: .* application.saveEnvironment"),
        ("A=${{}}", "", "", "set it in env"),
        ("A=${{secrets.B}}", "", "", r"\$\{\{secrets.B\}\}"),
        ("A=${{project.B}}", "", "B=${{C}}", r"project.B names \$\{\{C\}\}, which the project does not have"),
        ("A=${{project.B}}", "C=1", "B=${{environment.C}}", "cannot name an environment's"),
        ("A=${{B}}\nB=${{A}}", "", "", "in a circle: A names B names A"),
        ("A=${{A}}", "", "", "in a circle: A names A"),
        ("\n".join(f"A{n}=${{{{A{n + 1}}}}}" for n in range(100)) + "\nA100=", "", "", "32 deep"),
        ("A=" + "${{B}}" * 100 + "\nB=" + "${{C}}" * 100 + "\nC=" + "c" * 100, "", "", "A becomes longer"),
        ("\n".join(f"A{n}=${{{{B}}}}" for n in range(100)) + "\nB=" + "b" * 100_000, "", "", "together"),
    ],
)
def test_what_cannot_be_put_in_is_told(own: str, environment: str, project: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        resolve(own, environment=environment, project=project)


def test_most_name_nothing() -> None:
    assert not names_others("A=$B ${C} {{D}}")
    assert not names_others(None)
    assert names_others("A=${{B}}")

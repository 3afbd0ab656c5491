"""Settings are read once, told by name when they are wrong, and documented as they are."""

from importlib.metadata import distribution
from pathlib import Path

import pytest

from gateway.config import Settings
from gateway.model.errors import InvalidInput

README = Path(__file__).parents[2] / "README.md"


def table() -> str:
    """Return the settings as the README shows them."""
    rows = ["| Variable | Default | |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = {"data_dir": "`~/.local/share/pushdeploy`", "docker_host": "`DOCKER_HOST`, else the socket"}.get(
            name, "" if field.default in {None, ""} else f"`{field.default}`"
        )
        rows.append(f"| `GATEWAY_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def test_the_readme_shows_every_setting_as_it_is() -> None:
    assert table() in README.read_text(encoding="utf-8")


def test_a_data_directory_of_the_former_name_is_still_used(tmp_path: Path) -> None:
    former = tmp_path / ".local/share/webhook-gateway"
    (former / "postgres").mkdir(parents=True)
    assert Settings.from_environ({"HOME": str(tmp_path)}).data_dir == former


def test_a_data_directory_of_the_former_name_without_a_database_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "webhook-gateway").mkdir()
    assert Settings.from_environ({"XDG_DATA_HOME": str(tmp_path)}).data_dir == tmp_path / "pushdeploy"


def test_of_two_data_directories_the_one_of_todays_name_is_used(tmp_path: Path) -> None:
    for name in ("webhook-gateway", "pushdeploy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "master.key").touch()
    assert Settings.from_environ({"XDG_DATA_HOME": str(tmp_path)}).data_dir == tmp_path / "pushdeploy"


def test_both_names_of_the_command_run_the_same() -> None:
    scripts = {one.name: one.value for one in distribution("pushdeploy").entry_points}
    assert scripts["pushdeploy"] == scripts["gateway"]


def test_a_misspelt_setting_stops_the_start() -> None:
    with pytest.raises(InvalidInput, match=r"GATEWAY_LISTNE is not a setting\. Correct the spelling, or unset it"):
        Settings.from_environ({"HOME": "/home/me", "GATEWAY_LISTNE": "127.0.0.1:80"})


def test_a_public_address_without_a_scheme_is_refused() -> None:
    for text in (
        "gateway.example.com",
        "gateway.example.com:8080",
        "//gateway",
        "https://",
        "ftp://h",
        "https://h?a=b",
    ):
        with pytest.raises(InvalidInput, match="GATEWAY_PUBLIC_URL: a URL with http"):
            Settings.from_environ({"HOME": "/", "GATEWAY_PUBLIC_URL": text})
    settings = Settings.from_environ({"HOME": "/", "GATEWAY_PUBLIC_URL": "https://gateway.example.com/at/"})
    assert settings.public_url == "https://gateway.example.com/at"


@pytest.mark.parametrize("seconds", ["9", "²", "1000000001", "9" * 5000])
def test_a_poll_interval_out_of_its_bounds_is_refused(seconds: str) -> None:
    with pytest.raises(InvalidInput, match="with 10 to 1000000000 seconds"):
        Settings.from_environ({"GATEWAY_RECONCILE": f"docker.io={seconds}"})


def test_more_processes_than_the_connections_are_enough_for_stop_the_start() -> None:
    given = {"HOME": "/root", "GATEWAY_PROCESSES": "4", "GATEWAY_DATABASE_CONNECTIONS": "8"}
    part = Settings.from_environ(given).of_one_process()
    assert (part.processes, part.database_connections) == (1, 2)
    with pytest.raises(InvalidInput, match=r"GATEWAY_PROCESSES: .*GATEWAY_DATABASE_CONNECTIONS must be at least 8"):
        Settings.from_environ({**given, "GATEWAY_DATABASE_CONNECTIONS": "7"})


def test_what_an_orchestrator_injects_is_let_pass() -> None:
    environ = {"HOME": "/home/me", "GATEWAY_PORT_8080_TCP": "tcp://10.0.0.1:8080", "GATEWAY_SERVICE_HOST": "10.0.0.1"}
    assert Settings.from_environ(environ).listen == "127.0.0.1:8080"


def test_a_wrong_value_is_named_without_being_repeated() -> None:
    with pytest.raises(InvalidInput) as caught:
        Settings.from_environ({"HOME": "/home/me", "GATEWAY_LEASE": "s3cret"})
    assert "GATEWAY_LEASE" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("postgresql://db/gateway\n")
    settings = Settings.from_environ({"HOME": "/home/me", "GATEWAY_DATABASE_URL_FILE": str(path)})
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://db/gateway"


def test_a_secret_is_not_shown_by_accident() -> None:
    settings = Settings.from_environ({"HOME": "/home/me", "GATEWAY_MASTER_KEY": "hunter2"})
    assert "hunter2" not in repr(settings)


def test_a_master_key_of_another_length_is_refused() -> None:
    settings = Settings.from_environ({"HOME": "/home/me", "GATEWAY_MASTER_KEY": "aHVudGVyMg=="})
    with pytest.raises(InvalidInput, match="32 bytes"):
        settings.key()

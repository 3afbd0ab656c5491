"""What `gateway login` saves: for its user alone, and each key for one address."""

import os
import socket
from pathlib import Path

import pytest

from gateway.client.address import Address
from gateway.client.choose import api_key
from gateway.client.saved import SavedGateway, SavedGateways
from gateway.installation import answering_sockets, database_mark, short_address
from gateway.model.errors import Conflict, InvalidInput, NotFound
from gateway.version import VERSION


def saved(directory: Path) -> SavedGateways:
    return SavedGateways.load({"XDG_CONFIG_HOME": str(directory)})


def test_a_saved_gateway_is_found_again_and_only_its_user_can_read_the_file(tmp_path: Path) -> None:
    one = SavedGateway("prod", Address.parse("https://gateway.example.com/"), "gw_1")
    saved(tmp_path).with_gateway(one).save()
    again = saved(tmp_path)
    assert (again.current, again.get("prod")) == ("prod", one)
    assert again.path.stat().st_mode & 0o777 == 0o600
    assert again.path.parent.stat().st_mode & 0o777 == 0o700
    assert again.without("prod").current is None
    with pytest.raises(NotFound, match="no context 'test'; there are: prod"):
        again.using("test")


def test_keys_that_others_can_read_are_not_used(tmp_path: Path) -> None:
    saved(tmp_path).with_gateway(SavedGateway("prod", Address.parse("https://g.example.com"), "gw_1")).save()
    saved(tmp_path).path.chmod(0o644)
    with pytest.raises(Conflict, match="chmod 600"):
        saved(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, '{"contexts": {"a": 1}}', '{"contexts": {"a": {"url": "x", "key": 1}}}']
)
def test_a_damaged_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pushdeploy" / "contexts.json"
    path.parent.mkdir()
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(InvalidInput, match=f"{path} is damaged"):
        saved(tmp_path)


def test_a_key_is_for_its_address_alone(tmp_path: Path) -> None:
    found = saved(tmp_path).with_gateway(SavedGateway("a", Address.parse("https://a.example.com"), "gw_a"))
    assert found.key_for(Address.parse("HTTPS://A.example.com:443/")) == "gw_a"
    for other in (
        "http://a.example.com",
        "https://a.example.com:8443",
        "https://b.example.com",
        "https://a.example.com/x",
    ):
        assert found.key_for(Address.parse(other)) is None


@pytest.mark.parametrize(
    "text",
    ["", "gateway.example.com", "ftp://a", "https://", "https://u:p@a", "https://a/?x=1", "https://a:x", "http://a b"],
)
def test_what_is_no_url_of_a_gateway_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("localhost:8080/dashboard", "http://localhost:8080/dashboard"),
        ("gateway.example.com", "https://gateway.example.com"),
        ("10.0.0.1:8080", "https://10.0.0.1:8080"),
        ("u:p@a", "https://gateway.example.com"),
        ("ftp://a", "https://gateway.example.com"),
    ],
)
def test_a_url_without_its_scheme_is_suggested_with_it(text: str, meant: str) -> None:
    with pytest.raises(InvalidInput, match=f"for example {meant}$"):
        Address.candidates(text)


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://127.0.0.1:18999", "127.0.0.1:18999"),
        ("http://a:80/x", "a"),
        ("https://a:443", "a"),
        ("https://a:80", "a:80"),
        ("http://[::1]:1", "[::1]:1"),
    ],
)
def test_the_port_is_part_of_the_name_unless_it_is_the_usual_one(url: str, authority: str) -> None:
    assert Address.parse(url).authority == authority


def test_a_key_travels_readably_only_to_this_machine() -> None:
    readable = {text: Address.parse(text).is_readable_by_others for text in (
        "https://a.example.com", "http://localhost:8080", "http://127.0.0.1", "http://[::1]:1", "http://10.0.0.1", "http://a"
    )}  # fmt: skip
    assert [text for text, by_others in readable.items() if by_others] == ["http://10.0.0.1", "http://a"]


def test_a_key_file_without_a_key_is_refused_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" gw_1 \n")
    assert api_key({"GATEWAY_API_KEY_FILE": str(tmp_path / "key")}) == "gw_1"
    (tmp_path / "key").write_text("hush hush\n")
    with pytest.raises(InvalidInput) as refused:
        api_key({"GATEWAY_API_KEY_FILE": str(tmp_path / "key")})
    assert "hush" not in str(refused.value)


def test_a_database_is_recognised_without_its_password() -> None:
    marks = [database_mark(f"postgresql://u:{word}@db.example.com/gateway") for word in ("one", "two")]
    assert marks[0] == marks[1] != database_mark("postgresql://u:one@db.example.com/other")


def test_the_version_is_that_of_the_package() -> None:
    assert f'version = "{VERSION}"' in (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user are needed")
def test_a_socket_that_a_stranger_put_into_a_shared_directory_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "sockets").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        with short_address(tmp_path / "sockets/embedded-0.sock") as address:
            listening.bind(address)
        listening.listen()
        for owner, marks in ((0, ["embedded"]), (65_534, [])):
            os.chown(tmp_path / "sockets", owner, owner)
            found = list(answering_sockets(tmp_path, None))
            assert [mark for mark, _ in found] == marks
            for _, connection in found:
                connection.close()

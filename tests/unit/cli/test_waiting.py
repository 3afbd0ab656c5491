"""A command that waits for a person or a file ends by the first Ctrl-C, and reads no more than it needs."""

import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.cli._application_options import _file
from gateway.cli._runner import read_secret


def interrupted(words: Sequence[str], shown: bytes, home: Path) -> int | None:
    """Run a command on a terminal, and press Ctrl-C once it has shown this. Return how it ends, None if it goes on."""
    terminal, end = pty.openpty()
    environment = {
        **os.environ,
        "HOME": str(home),
        "XDG_CONFIG_HOME": "",
        "GATEWAY_URL": "",
        "GATEWAY_DATABASE_URL": "",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", *words],
        env=environment,
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
        preexec_fn=_own_terminal,  # noqa: PLW1509 - this process has one thread
    )
    os.close(end)
    try:
        seen = b""
        while shown not in seen:
            seen += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        return process.wait(60)
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_the_first_ctrl_c_at_a_prompt_ends_the_command(tmp_path: Path) -> None:
    assert interrupted(["login", "http://127.0.0.1:1"], b"API key: ", tmp_path) == 130


def test_a_mark_at_the_start_of_a_secrets_file_is_no_part_of_the_secret(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"\xef\xbb\xbfcorrect horse battery\r\n")
    assert read_secret(str(file)) == "correct horse battery"


def test_an_endless_file_is_not_read_to_its_end() -> None:
    assert len(str(_file("/dev/zero:/zeros")["content"])) == 500_001

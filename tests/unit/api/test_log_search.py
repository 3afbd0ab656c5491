"""What a search in a log looks at."""

import pytest

from gateway.api.procedures.application_logs import plain


@pytest.mark.parametrize(
    "line",
    [
        "\x1b[32mline\x1b[0m 7",
        "\x1b[1;38;5;208mli\x1b[mne 7\x1b[K",
        "\x1b]8;;https://example.com\x1b\\line\x1b]8;;\x07 7",
        "line 7\x1bM",
    ],
)
def test_colours_do_not_divide_a_text(line: str) -> None:
    assert plain(line) == "line 7"

"""Amounts have the meaning that Docker and the documentation give them."""

import pytest

from gateway.model.errors import InvalidInput
from gateway.model.quantities import parse_cpus, parse_memory

MIB = 1024**2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2048MB", 2048 * MIB),
        ("512MB", 512 * MIB),
        ("256mb", 256 * MIB),
        ("512m", 512 * MIB),
        ("2g", 2048 * MIB),
        ("1.5GB", 1536 * MIB),
        ("2GiB", 2048 * MIB),
        ("8192k", 8 * MIB),
        ("268435456", 256 * MIB),
        (" 64 MB ", 64 * MIB),
    ],
)
def test_memory_is_counted_in_powers_of_1024(text: str, expected: int) -> None:
    assert expected == parse_memory(text)


@pytest.mark.parametrize("text", ["", "lots", "-1", "0", "1", "5MB", "2 4MB", "1e9", "2X", "MB", "9" * 40, "٣g"])
def test_invalid_amounts_of_memory_are_rejected(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_memory(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2", 2 * 10**9), ("0.5", 5 * 10**8), ("1.25", 125 * 10**7), ("500000000", 5 * 10**8), ("1000000", 10**6)],
)
def test_processors_are_counted_whole_or_in_billionths(text: str, expected: int) -> None:
    assert expected == parse_cpus(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "1000", "999999", "0.001", "1e3", "nan", "inf"])
def test_invalid_numbers_of_cpus_are_rejected(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_cpus(text)

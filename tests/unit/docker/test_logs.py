"""Logs as an engine sends them: in frames of any cut, or as a program writes them to a terminal."""

from collections.abc import AsyncIterator, Iterable

import pytest

from gateway.docker.engine import logs

_TIME = "2026-11-30T10:00:00.00000000{}Z"


async def coming(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def frame(stream: int, text: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


async def lines(*chunks: bytes) -> list[tuple[str, str]]:
    return [line async for together in logs.decode_lines(coming(chunks)) for line in together]


@pytest.mark.parametrize("size", [1, 3, 8, 9, 100])
async def test_frames_are_joined_wherever_they_are_cut(size: int) -> None:
    sent = frame(1, b"one\n") + frame(2, b"") + frame(2, b"two\n") + frame(1, b"three")
    chunks = [sent[at : at + size] for at in range(0, len(sent), size)]
    assert await logs.decode_tail(coming(chunks), 1000) == "one\ntwo\nthree"
    assert await logs.decode_tail(coming(chunks), 5) == "three"


async def test_what_looks_like_an_endless_frame_is_not_kept_until_it_ends() -> None:
    kept: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        yield b"\1\0\0\0\xff\xff\xff\xff"
        for number in range(100):
            yield f"{number:<9}\n".encode() * 100
            kept.append(number)

    pieces = logs._payloads(endless())  # noqa: SLF001 - what it holds is the claim
    assert b"".join(await anext(pieces)).startswith(b"0 ")
    assert kept == []
    assert await logs.decode_tail(endless(), 10) == "99       \n"


async def test_each_line_has_its_time() -> None:
    first, second = _TIME.format(1), _TIME.format(2)
    sent = frame(1, f"{first} a b\r\n".encode()) + frame(2, f"{second} \n".encode())
    assert await lines(sent) == [(first, "a b"), (second, "")]


async def test_what_follows_where_a_line_is_cut_has_the_time_of_the_line() -> None:
    first, second = _TIME.format(1), _TIME.format(2)
    chunks = f"{first} ".encode() + b"x" * 70_000, b"event: ended\rid: 7 y\n", f"{second} z".encode()
    assert await lines(*chunks) == [
        (first, "x" * (65_536 - len(first) - 1)),
        (first, "event: ended\rid: 7 y"),
        (second, "z"),
    ]

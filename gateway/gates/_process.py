"""Run a program that the gateway does not trust with much: bounded in time, output, memory and disk, without secrets.

All that it has is `Command.environment`, and a private directory that ends with it. See `_confine.py`.
"""

import asyncio
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import time

from gateway.gates import _confine

_MEGABYTE = 1024**2
_ERRORS_KEPT = 16 * 1024  # bytes of the end of its error output
_END_DEADLINE = 15.0  # seconds until the killed program is gone
_UNCLAIMED = 60.0  # seconds after which a directory without a lock belongs to nobody


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a program may use. `memory` and `disk` are in bytes, as `output` is."""

    seconds: float
    output: int = 32 * _MEGABYTE
    memory: int = 2048 * _MEGABYTE
    disk: int = 4096 * _MEGABYTE


@dataclass(frozen=True, slots=True)
class Command:
    """A program by its path, its arguments and its whole environment; `stdin` may be a secret."""

    words: Sequence[str]
    environment: Mapping[str, str]
    stdin: bytes = field(default=b"", repr=False)
    #: files to write into its directory, by name, before it starts; their paths are unknown before
    files: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. `broken` says which bound it broke, or is empty."""

    code: int
    output: bytes
    errors: str
    broken: str = ""


async def run(command: Command, directory: Path, bounds: Bounds) -> Ended:
    """Run the program in a new directory below this one. It never outlives the call, nor the gateway.

    Raises OSError if there is no space for a directory or no process to be had.
    """
    await asyncio.to_thread(_sweep, directory)
    place = _prepare(directory, command.files)  # not in a thread, which a cancelled call would leave behind
    with _pipe() as output, _pipe() as errors:
        reads, writes = os.pipe()
        lifeline = _Lifeline(writes)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", _confine.__file__, str(place), str(reads)),
                *(str(bounds.memory), str(bounds.disk), str(int(2 * bounds.seconds) + 1), *command.words),
                stdin=asyncio.subprocess.PIPE,
                stdout=output.write_end,
                stderr=errors.write_end,
                env={"HOME": str(place), "TMPDIR": str(place), "XDG_CACHE_HOME": str(place), **command.environment},
                pass_fds=(reads,),
                start_new_session=True,
            )
        except BaseException:
            lifeline.cut()
            shutil.rmtree(place, ignore_errors=True)
            raise
        finally:
            for descriptor in (reads, output.write_end, errors.write_end):
                os.close(descriptor)
        try:
            return await _attend(process, command.stdin, output, errors, bounds=bounds, lifeline=lifeline)
        finally:
            lifeline.cut()  # ends it, if it has not ended
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_DEADLINE):
                    await process.wait()


@dataclass(frozen=True, slots=True)
class _Pipe:
    """A pipe that a program writes to. Who uses it closes `write_end`."""

    read_end: int
    write_end: int
    readable: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> bytes:
        """Return what was written, b"" at the end."""
        while True:
            await self.readable.wait()
            self.readable.clear()
            with suppress(BlockingIOError):
                return os.read(self.read_end, _MEGABYTE)


@contextmanager
def _pipe() -> Iterator[_Pipe]:
    pipe = _Pipe(*os.pipe())
    os.set_blocking(pipe.read_end, False)
    loop = asyncio.get_running_loop()
    loop.add_reader(pipe.read_end, pipe.readable.set)
    try:
        yield pipe
    finally:
        loop.remove_reader(pipe.read_end)
        os.close(pipe.read_end)


@dataclass(slots=True)
class _Lifeline:
    """The pipe without which the program is killed."""

    descriptor: int | None

    def cut(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


async def _attend(
    process: asyncio.subprocess.Process,
    stdin: bytes,
    output: _Pipe,
    errors: _Pipe,
    *,
    bounds: Bounds,
    lifeline: _Lifeline,
) -> Ended:
    last = bytearray()
    try:
        async with asyncio.timeout(bounds.seconds):
            _, text, _ = await asyncio.gather(
                _feed(process, stdin), _read(output, bounds.output, lifeline), _read_end(errors, last)
            )
            code = await process.wait()
    except TimeoutError:
        return Ended(_confine.GIVEN_UP, b"", _text(last), f"it did not end within {bounds.seconds:g} s")
    if text is None:
        return Ended(code, b"", _text(last), f"its output is larger than {bounds.output // _MEGABYTE} MB")
    full = f"it wrote more than {bounds.disk // _MEGABYTE} MB, or all that the disk has"
    broken = full if code == _confine.DISK_FULL else ""
    return Ended(code, text, _text(last), broken)


async def _feed(process: asyncio.subprocess.Process, text: bytes) -> None:
    if (stream := process.stdin) is not None:
        with suppress(ConnectionError):
            stream.write(text)
            await stream.drain()
        stream.close()


async def _read(pipe: _Pipe, most: int, lifeline: _Lifeline) -> bytes | None:
    """Return all that the program writes; where that is more than `most` bytes, end the program and return None."""
    output = bytearray()
    while chunk := await pipe.read():
        output += chunk
        if len(output) > most:
            lifeline.cut()
            return None
    return bytes(output)


async def _read_end(pipe: _Pipe, errors: bytearray) -> None:
    while chunk := await pipe.read():
        errors += chunk
        del errors[:-_ERRORS_KEPT]


def _text(errors: bytearray) -> str:
    return bytes(errors).decode(errors="replace")


# -- the directory


def _prepare(directory: Path, files: Mapping[str, str]) -> Path:
    place = Path(tempfile.mkdtemp(dir=directory))  # mode 0700
    for name, text in files.items():
        (place / name).write_text(text, encoding="utf-8")
    return place


def _sweep(directory: Path) -> None:
    """Remove the directories of programs that were killed together with what would have removed them."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for place in directory.iterdir():
        with suppress(OSError):
            if time() - place.stat().st_mtime < _UNCLAIMED:
                continue
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place)
            finally:
                os.close(descriptor)

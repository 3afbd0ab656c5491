"""One target, until its time is up or something breaks: `python -m tests.fuzz.child TARGET [libFuzzer's arguments]`."""

import sys
from random import Random

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # installed by make fuzz alone

with atheris.instrument_imports(include=["gateway", "dotenv", "semantic_version", "shlex"]):
    from tests.fuzz.targets import targets

from tests.fuzz.mutation import mutate


def mutated(data: bytes, longest: int, seed: int) -> bytes:
    random = Random(seed)
    # What knows JSON goes deep, what does not goes wide.
    if random.random() < 0.5:
        return mutate(data, random)[:longest]
    return bytes(atheris.Mutate(data, longest))


if __name__ == "__main__":
    target = targets()[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.run, custom_mutator=mutated)
    atheris.Fuzz()

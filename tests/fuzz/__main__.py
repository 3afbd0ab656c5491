"""`make fuzz`: every target for its share of MINUTES, guided by coverage; exit code 1 when something broke.

What was learnt is kept in .fuzz/ and used again; what broke lies there too, to be run again by tests.fuzz.child.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.targets import targets
from tests.support import leftovers

PLACE = Path(".fuzz")
_LONGEST = 16384  # bytes; growth is looked at apart, in tests/fuzz/growth.py
_SLOWEST = 10  # seconds for one input
_MOST_MEMORY = 2048  # MB


def fuzz(name: str, seconds: int) -> bool:
    """Fuzz one target, print a line about it, and return whether it held."""
    corpus, seeds = PLACE / name / "corpus", PLACE / name / "seeds"
    for folder in (corpus, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets()[name].seeds):
        (seeds / str(number)).write_bytes(seed)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.child", name, str(corpus), str(seeds)),
            *(f"-max_total_time={seconds}", f"-max_len={_LONGEST}", f"-timeout={_SLOWEST}"),
            *(f"-rss_limit_mb={_MOST_MEMORY}", f"-artifact_prefix={PLACE / name}/", "-print_final_stats=1"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    runs = re.search(r"number_of_executed_units: (\d+)", done.stdout)
    covered = re.findall(r"cov: (\d+)", done.stdout)
    held = done.returncode == 0
    say(f"{name:24} {runs[1] if runs else '?':>10} {covered[-1] if covered else '?':>8}  {'held' if held else 'BROKE'}")
    if not held:
        say("\n".join(line for line in done.stdout.splitlines()[-40:] if not line.startswith("#")))
        written = re.findall(r"Test unit written to (\S+)", done.stdout)
        say(f"Again: {sys.executable} -m tests.fuzz.child {name} {' '.join(written)}")
    return held


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(minutes: float, chosen: list[str]) -> int:
    names = chosen or list(targets())
    workers = os.cpu_count() or 1
    seconds = max(1, int(minutes * 60 * workers / len(names)))
    say(f"{len(names)} targets, {seconds} s each\n{'target':24} {'inputs':>10} {'branches':>8}")
    with ThreadPoolExecutor(workers) as pool:
        held = list(pool.map(lambda name: fuzz(name, seconds), names))
    return 0 if all(held) else 1


if __name__ == "__main__":
    leftovers.start_watcher()
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))

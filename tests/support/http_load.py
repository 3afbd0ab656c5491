"""Asks a name over HTTP, again and again, as fast as is answered, and says how that went once its input ends.

Run in the network of a container: each request looks the name up anew and takes any of the addresses it is told.
"""

import json
import random
import socket
import struct
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field
from http.client import HTTPException

_THREADS = 4
_DNS = ("127.0.0.11", 53)
_DEADLINE = 3.0  # seconds
_PAUSE = 0.005  # seconds


@dataclass
class Answers:
    """What came back: how often each body, and each failure with its time."""

    asked: int = 0
    bodies: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def addresses(name: str) -> list[str]:
    """Look the name up: https://www.rfc-editor.org/rfc/rfc1035#section-4."""
    number = random.randrange(1 << 16)
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    query = struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + question + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dns:
        dns.settimeout(_DEADLINE)
        dns.sendto(query, _DNS)
        answer = dns.recv(4096)
    count = struct.unpack(">H", answer[6:8])[0]
    position, found = len(query), []
    for _ in range(count):
        position = after_name(answer, position)
        kind, _, _, length = struct.unpack(">HHIH", answer[position : position + 10])
        if kind == 1:
            found.append(socket.inet_ntoa(answer[position + 10 : position + 14]))
        position += 10 + length
    return found


def after_name(answer: bytes, position: int) -> int:
    """Skip a name, which may end in a pointer to an earlier one."""
    while (length := answer[position]) != 0:
        if length >= 0xC0:
            return position + 2
        position += 1 + length
    return position + 1


def ask(name: str, port: int, answers: Answers, over: threading.Event, lock: threading.Lock) -> None:
    while not over.is_set():
        address = "no address"
        try:
            address = random.choice(addresses(name) or ["no address"])
            with urllib.request.urlopen(f"http://{address}:{port}/", timeout=_DEADLINE) as answer:
                body, failure = answer.read().decode(), None
        except (OSError, HTTPException, ValueError, IndexError, struct.error) as error:
            body, failure = "", f"{time.strftime('%H:%M:%S')} {address}: {error}"
        with lock:
            answers.asked += 1
            if failure:
                answers.failures.append(failure)
            else:
                answers.bodies[body] = answers.bodies.get(body, 0) + 1
        time.sleep(_PAUSE)


def main() -> None:
    name, port = sys.argv[1], int(sys.argv[2])
    answers, over, lock = Answers(), threading.Event(), threading.Lock()
    threads = [threading.Thread(target=ask, args=(name, port, answers, over, lock)) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    print(json.dumps(asdict(answers)))  # noqa: T201


if __name__ == "__main__":
    main()

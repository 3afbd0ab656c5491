"""What is printed in the documents: fenced blocks, the examples in them, and the steps of CI."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCED = re.compile(
    r"^(?P<indent> *)```(?P<language>[a-z]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_STRING_OR_COMMENT = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*')
_CALL = re.compile(
    r"/api/(?:trpc/)?(?P<procedure>[a-z]\w*\.\w+)\b[^;]*?-d '(?P<body>\{.*?\})'$", re.MULTILINE | re.DOTALL
)
_EXPRESSION = re.compile(r"\$\{\{ *([\w.]+) *\}\}")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. It is named by its page and its first line."""

    page: str
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0]}"


def blocks() -> list[Block]:
    return [
        block for page in PAGES for block in blocks_of(str(page.relative_to(ROOT)), page.read_text(encoding="utf-8"))
    ]


def blocks_of(page: str, text: str) -> Iterator[Block]:
    for found in _FENCED.finditer(text):
        yield Block(page, found["language"], textwrap.dedent(found["text"]))


def is_only_ours(block: Block) -> bool:
    """Tell whether it holds nothing but `gateway` commands."""
    lines = [line for line in block.text.splitlines() if line and not line.startswith("#")]
    return block.language == "sh" and all(line.startswith("gateway ") for line in lines)


def examples(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects of a block, one after the other, without their comments."""
    clean = _STRING_OR_COMMENT.sub(lambda found: found[0] if found[0].startswith('"') else "", text)
    decoder, found, at = json.JSONDecoder(object_pairs_hook=_no_key_twice), [], 0
    while (at := at + len(clean[at:]) - len(clean[at:].lstrip())) < len(clean):
        value, at = decoder.raw_decode(clean, at)
        found.append(value)
    return found


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names), f"a key stands twice among {names}"
    return dict(pairs)


def calls(script: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the procedures that the curl lines of a script call, and what they give them."""
    return [(found["procedure"], json.loads(found["body"])) for found in _CALL.finditer(script)]


@dataclass(frozen=True, slots=True)
class Step:
    """What CI runs at once, with what its author set beside it."""

    script: str
    shell: str
    variables: Mapping[str, str]


def steps(recipe: str, known: Mapping[str, str]) -> list[Step]:
    """Return what CI would run, in its order, with its own variables filled in as it does.

    `known` are CI's variables and the secrets, for GitHub by their expressions, as `github.sha`.
    """
    parsed = yaml.safe_load(recipe)
    if "jobs" in parsed:
        return [step for job in parsed["jobs"].values() for step in _of_github(job, known)]
    if "pipelines" in parsed:
        each = [one["step"] for one in parsed["pipelines"]["default"]]
        return [Step("\n".join(one["script"]), "sh", known) for one in each]
    return list(_of_gitlab(parsed, known))


def _of_github(job: Mapping[str, Any], known: Mapping[str, str]) -> Iterator[Step]:
    def filled(text: str) -> str:
        return _EXPRESSION.sub(lambda found: known[found[1]], text)

    default = {name: value for name, value in known.items() if "." not in name}
    for step in job["steps"]:
        if "run" in step:
            own = {name: filled(str(value)) for name, value in {**job.get("env", {}), **step.get("env", {})}.items()}
            yield Step(filled(step["run"]), "bash", default | own)


def _of_gitlab(parsed: dict[str, Any], known: Mapping[str, str]) -> Iterator[Step]:
    def filled(text: str) -> str:
        return re.sub(r"\$(\w+)", lambda found: known[found[1]], text)

    variables = {name: filled(str(value)) for name, value in parsed.get("variables", {}).items()}
    jobs = [job for job in parsed.values() if isinstance(job, dict) and "script" in job]
    stages = parsed.get("stages", ["build", "test", "deploy"])
    for job in sorted(jobs, key=lambda job: stages.index(job["stage"])):
        yield Step("\n".join(job["script"]), "sh", {**known, **variables})

"""`make ci-template`: write ci/deploy-and-wait.sh into the component for GitLab, which is one file."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "templates" / "deploy-and-wait.yml"
_SCRIPT = "  script:\n    - |\n"


def filled(template: str, script: str) -> str:
    """Return the template with this script."""
    head = template.partition(_SCRIPT)[0]
    return head + _SCRIPT + "".join(f"        {line}".rstrip() + "\n" for line in script.splitlines())


def main() -> None:
    script = (ROOT / "ci" / "deploy-and-wait.sh").read_text(encoding="utf-8")
    TEMPLATE.write_text(filled(TEMPLATE.read_text(encoding="utf-8"), script), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The steps that a webhook is printed with are right as pasted."""

import json
import subprocess
from pathlib import Path

import pytest

from gateway.cli._steps import steps
from gateway.sources import SOURCES

AWS = """
aws() {
  case "$2" in
    create-connection) printf '%s' "$*" | grep -q file://connection.json && cp connection.json seen-connection.json ;;
  esac
  echo "arn:aws:$1:$2"
}
"""


def _steps(source: str) -> str:
    settings = dict.fromkeys(SOURCES[source].required, "a@example.com")
    base = "https://gw.example.com/"
    return steps(SOURCES[source], base=base, path="/p", secret="s3cret", host=None, settings=settings)


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_has_steps_with_all_it_needs(source: str) -> None:
    text = _steps(source)
    assert "https://gw.example.com/p" in text
    assert SOURCES[source].header is None or "s3cret" in text
    assert not any(place in text for place in ("{url}", "{secret}", "{header}", "{header_value}", "{host}", "{set:"))


def test_the_lines_for_aws_hand_it_what_it_can_read(tmp_path: Path) -> None:
    text = _steps("ecr")
    script = AWS + text[text.index("cat > connection.json") : text.index("--- or with Terraform")]
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    connection = json.loads((tmp_path / "seen-connection.json").read_text())
    assert connection == {"ApiKeyAuthParameters": {"ApiKeyName": "x-api-key", "ApiKeyValue": "s3cret"}}
    policy = json.loads(json.loads((tmp_path / "queue.json").read_text())["Policy"])
    assert policy["Statement"][0]["Condition"] == {"ArnEquals": {"aws:SourceArn": "arn:aws:events:put-rule"}}
    assert policy["Statement"][0]["Resource"] == "arn:aws:sqs:get-queue-attributes"
    target = json.loads((tmp_path / "targets.json").read_text())[0]
    assert target["Arn"] == "arn:aws:events:create-api-destination"
    assert target["DeadLetterConfig"]["Arn"] == "arn:aws:sqs:get-queue-attributes"
    assert json.loads((tmp_path / "role.json").read_text())["Statement"][0]["Resource"] == target["Arn"]


def test_the_policy_of_harbor_and_the_notification_of_quay_are_json() -> None:
    policy, told = (json.loads(_pasted(_steps(source))) for source in ("harbor", "quay"))
    assert policy["targets"][0]["address"] == told["config"]["url"] == "https://gw.example.com/p"
    assert policy["targets"][0]["auth_header"] == "s3cret"


def _pasted(text: str) -> str:
    return text.partition("<<'END'\n")[2].partition("END\n")[0]


def test_the_hook_of_github_is_json() -> None:
    text = _steps("github")
    hook = json.loads(_pasted(text))
    assert hook["events"] == ["package", "registry_package"]
    assert hook["config"]["url"] == "https://gw.example.com/p"

"""What people look for in the documents is there, and what is there is run or says why not."""

import pytest

from tests.docs.required_content import CALLS, COMMANDS, EXAMPLES, RECIPES
from tests.support.doc_blocks import Block, blocks, calls, examples, is_only_ours

_AWS, _AZURE, _GOOGLE = (f"{whose} own command and cloud" for whose in ("Amazon's", "Azure's", "Google's"))
_ON_A_HOST = "test_pages_on_a_host runs it"
_THEIRS = "the API of that registry, which is not here"

#: blocks that no test runs, by page and how they begin, and why
NOT_RUN = {
    "README.md: sequenceDiagram": "a picture",
    "README.md: . .venv/bin/activate": _ON_A_HOST,
    "docs/rollouts.md: stateDiagram": "a picture",
    "docs/architecture.md: flowchart": "a picture",
    "docs/groups.md: stateDiagram": "a picture",
    "docs/acr.md: az ": _AZURE,
    "docs/artifactregistry.md: gcloud ": _GOOGLE,
    "docs/ecr.md: aws ": _AWS,
    "docs/quay.md: curl -X POST https://quay.io/": _THEIRS,
    'docs/gitlab.md: curl --fail-with-body -X POST "https://gitlab.com/': _THEIRS,
    'docs/gitea.md: curl --fail-with-body -X POST "https://git.example.com/': _THEIRS,
    'docs/jfrog.md: curl --fail-with-body -X POST "https://acme.jfrog.io/': _THEIRS,
    "docs/harbor.md: curl -u admin": _THEIRS,
    "docs/gitlab.md: registry['notifications']": "the configuration of GitLab, which is not here",
    'docs/gitlab.md: echo "whsec_': "one line of it is openssl's; the other is held by test_links_and_settings",
    "docs/zot.md: {": "the configuration of zot, which is not here",
    "docs/verification.md: # Using Trivy": "programs that are not here, and their databases",
    "docs/verification.md: cosign": "cosign is not here; tests/support/signing.py signs as it does",
    "docs/verification.md: # Sign": "needs a Notary server",
    "docs/distribution.md: notifications:": "what the registries of test_examples_run are configured with",
    'docs/adding-a-gate.md: """The gate': "test_adding_a_gate imports it and asks it",
    'docs/adding-a-source.md: """Example': "test_adding_a_source imports and calls it",
    "docs/reverse-proxy.md: worker_processes": "`make proxy` runs it",
    "docs/proxy.md: worker_processes": "its certificate and its name are nobody's",
    "docs/reverse-proxy.md: :80": "Caddy is not here",
    "docs/health.md: GATEWAY_ALERT_URLS=": "addresses of nobody",
    "docs/servers.md: HOST=": "test_servers makes its certificates so",
    "docs/servers.md: ssh-keygen": "test_servers has a server to log in to",
    "docs/clients.md: import": "test_dokploy_clients runs programs that do the same, of tests/clients",
    "docs/clients.md: {": "the configuration of a program for editors; test_dokploy_clients has its settings",
    "docs/alerts.md: {": "test_outbox hears such requests",
    "docs/ci.md: - uses: OWNER": "test_deploy_and_wait runs its script",
    "docs/ci.md: include:": "test_deploy_and_wait runs its script",
    "docs/api.md: ": "made from the models, and held to them by test_openapi",
    'docs/gates.md: seconds, _, made = headers["X-Gateway-Signature"]': "test_external runs it on what a hook gets",
    "docs/gates.md: cosign": "cosign is not here; tests/support/signing.py signs as it does",
    "docs/declared.md: # shop.yaml": "test_declared_page applies it",
    "docs/declared.md: # compose.yaml": "test_declared_page imports it",
    "docs/declared.md: # platform.yaml": "test_declared_page applies it",
    "docs/errors.md: uname": "there is no docker buildx here",
    "docs/errors.md: mkdir -p /etc/docker": "writes where the machine's own engine looks",
    'docs/errors.md: {"insecure-registries': "the configuration of the Engine",
    "docs/proxy.md: gateway.example.com {": "Caddy is not here",
    "docs/proxy.md: # traefik.yaml": "Traefik is not here",
    "docs/proxy.md: # dynamic/gateway.yaml": "Traefik is not here",
    "docs/proxy.md: curl --fail": "the address is nobody's",
    "docs/labels.md: services:": "test_labels_page reads its labels, test_label_discovery adopts",
    "docs/move-from-watchtower.md: docker rm": "Watchtower is not here",
    "docs/move-from-compose.md: docker compose down": _ON_A_HOST,
    "docs/move-from-dokploy.md: ": _ON_A_HOST,
    "docs/move-from-coolify.md: docker ps": _ON_A_HOST,
    "docs/uninstall.md: docker ps": "one line of Docker's, which lists",
    "docs/webhooks.md: export GATEWAY_PUBLIC_URL": "the rest is held by test_links_and_settings",
}


def why_not(block: Block) -> str | None:
    """Return why no test runs it, or None."""
    if is_only_ours(block):
        return "each line is held by test_links_and_settings"
    return next((why for begins, why in NOT_RUN.items() if block.name.startswith(begins)), None)


RUN = [block for block in blocks() if why_not(block) is None]


def test_what_is_not_run_is_there_and_the_rest_is_of_a_kind_that_can_be_run() -> None:
    names = [block.name for block in blocks()]
    assert [begins for begins in NOT_RUN if not any(name.startswith(begins) for name in names)] == []
    assert [block.name for block in RUN if block.language not in {"sh", "json", "jsonc", "yaml"}] == []


@pytest.mark.parametrize(("procedure", "given"), CALLS, ids=lambda one: one if isinstance(one, str) else "")
def test_a_call_is_printed_and_run(procedure: str, given: dict[str, object]) -> None:
    assert (procedure, given) in [call for block in RUN if block.language == "sh" for call in calls(block.text)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: str(one.get("dockerImage") or one["username"]))
def test_an_example_is_printed_and_run(example: dict[str, object]) -> None:
    assert example in [one for block in RUN if block.language in {"json", "jsonc"} for one in examples(block.text)]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_printed(command: str) -> None:
    assert command in [line.strip() for block in blocks() if block.language == "sh" for line in block.text.splitlines()]


@pytest.mark.parametrize("service", RECIPES)
def test_a_recipe_is_printed_and_run(service: str) -> None:
    recipes = [block.text for block in RUN if block.page == "docs/ci.md" and block.language == "yaml"]
    assert any(all(line in recipe for line in RECIPES[service]) for recipe in recipes)

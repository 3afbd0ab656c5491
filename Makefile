# Every target installs what it needs: Python packages in .venv, Debian packages when run as root.

.DEFAULT_GOAL := help
.PHONY: help setup run demo check format test fuzz bench scale faults soak proxy image image-test requirements clean

# A run starts many processes: the first one compiles the modules for all.
export PYTHONDONTWRITEBYTECODE :=

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Programs others wrote, which the tests run: npm's and pip's.
CLIENTS := tests/clients
CLIENTS_READY := $(CLIENTS)/node_modules/.ready
# What the demo and the tests run for real: an engine, a registry, a program for tiny images.
DEBIAN := docker.io iptables iproute2 docker-registry busybox-static

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) debian ## Install everything that is needed.

$(READY): requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	    test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv \
	    && rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@echo "Installing Python packages: this can take some minutes"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes -r requirements.txt -r requirements-dev.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --no-build-isolation -e .
	@touch $@

# Debian starts the registry at once, for everybody, at the port that the demonstration has.
.PHONY: debian
debian:
	@missing=$$(for package in $(DEBIAN); do \
	    dpkg-query -W -f '$${Status}\n' $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; done); \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo "Installing Debian packages:" $$missing; \
	        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null || exit; \
	        case "$$missing" in *docker-registry*) test ! -d /run/systemd/system || systemctl --quiet disable --now docker-registry;; esac; \
	    else \
	        echo "Please install:" $$missing >&2; \
	    fi; \
	fi

$(CLIENTS_READY): $(CLIENTS)/package-lock.json requirements-clients.txt | debian
	@echo "Installing other programs for the API"
	@cd $(CLIENTS) && npm ci --silent --omit=peer --ignore-scripts --no-audit --no-fund
	@$(PYTHON) -m venv --clear $(CLIENTS)/.venv
	@$(CLIENTS)/.venv/bin/python -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes -r requirements-clients.txt
	@touch $@

run: $(READY) ## Serve.
	@$(BIN)/gateway serve

demo: setup ## Push v2 of an application and watch it deployed, for real, in a minute.
	@$(BIN)/gateway demo

check: $(READY) ## Format, lint, types, imports, numbers of migrations.
	@twice=$$(ls migrations | grep -o '^[0-9]*' | uniq -d); test -z "$$twice" || { echo "two migrations have the number $$twice" >&2; exit 1; }
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy --num-workers 2 || { test $$? = 2 && $(BIN)/mypy; }  # 2: on a busy machine, its workers may not start
	@$(BIN)/lint-imports

format: $(READY) ## Format the code, and fix what can be fixed.
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# A server to log in to, and shells that complete; not for the demonstration, since Debian's package opens the machine to SSH.
# Node only where there is none, since it often comes from elsewhere.
test long: DEBIAN += openssh-server openssl curl zsh fish $(if $(shell command -v npm),,nodejs npm)
test: setup $(CLIENTS_READY) $(VENV)/.browser ## All tests but the long ones.
	@test -d tests/__pycache__ || $(BIN)/python -m pytest --collect-only -qq >/dev/null || true  # else each worker compiles all
	@$(if $(shell unshare --net true 2>/dev/null && echo yes),$(APART)) $(BIN)/python -m pytest -m "not long" -n 6 --dist loadfile --no-loadscope-reorder

# A browser, and what drives it. Without them, the tests that need them are skipped, and say so.
$(VENV)/.browser: requirements-ui.txt | $(READY) debian
	@{ command -v chromium >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq \
	    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; }; } \
	&& $(BIN)/python -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes -r requirements-ui.txt \
	&& touch $@ || echo "There is no browser: as root, apt-get install chromium" >&2

.PHONY: long
long: setup $(CLIENTS_READY) ## Tests that take too long for make test: more clients, cases and former databases.
	@$(BIN)/python -m pytest -m long -n 3 --dist loadfile

fuzz: setup ## Search for input that breaks a parser, and for responses that differ from their description; MINUTES=10 REQUESTS=100000.
	@$(BIN)/python -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes -r requirements-fuzz.txt
	@$(BIN)/python -m tests.fuzz.growth
	@$(BIN)/python -m tests.fuzz.requests $(or $(REQUESTS),100000)
	@$(BIN)/python -m tests.fuzz.shortcut 10000
	@$(BIN)/python -m tests.fuzz $(or $(MINUTES),10)
	@CONFORMING_MINUTES=$(or $(MINUTES),10) $(BIN)/python -m pytest -m long -n 2 tests/contract/test_schemathesis.py --timeout=3600

.PHONY: missed
missed: setup ## Push to fifty applications while the gateway is killed, and stopped for a minute.
	@MISSED_APPLICATIONS=50 MISSED_AWAY=60 $(BIN)/python -m pytest tests/e2e/test_missed_pushes.py --timeout=1200

.PHONY: alike
alike: setup ## Adopt containers of EXAMPLES=50 times four generated configurations, and compare their replacements.
	@ADOPTION_EXAMPLES=$(or $(EXAMPLES),50) $(BIN)/python -m pytest tests/integration/rollout/test_adoption_equivalence.py --timeout=3600

.PHONY: swarm
swarm: setup ## Update a service on a Swarm of three nodes under load, UPDATES=5 times, then lose a node.
	@$(BIN)/python -m tests.scripts.swarm_three_nodes

bench: setup ## Measure, each figure a ratio inside one run; PART selects some of the parts; MINUTES keeps the dashboard's tabs open.
	@command -v wrk >/dev/null && command -v webhook >/dev/null || test "$$(id -u)" != 0 || apt-get install -y -qq --no-install-recommends wrk webhook >/dev/null
	@$(BIN)/python -m tests.bench $(PART) $(if $(MINUTES),--minutes $(MINUTES))

scale: setup ## Simulate ENGINES=10000 hosts and three gateways, roll out to ROLLOUTS=1500 at once, and kill each gateway.
	@$(BIN)/python -m tests.scale --engines $(or $(ENGINES),10000) --rollouts $(or $(ROLLOUTS),1500) \
	    --gateways $(or $(GATEWAYS),3) --pull $(or $(PULL),40) --minutes $(or $(MINUTES),15)

# In a network of its own, where no other engine's packet rules are, nor all connections of this machine: an engine
# reads those that the kernel tracks, each time a container stops.
APART := unshare --net sh -c 'ip link set lo up && exec "$$@"' --

faults: setup ## Kill and disturb the gateway at each step of a rollout, on engines of its own; PART selects some of the runs.
	@$(BIN)/python -m tests.faults $(PART)

soak: setup ## Kill the gateway at random, for MINUTES=30.
	@$(BIN)/python -m tests.faults --soak $(or $(MINUTES),30)

.PHONY: ui
ui: setup $(CLIENTS_READY) $(VENV)/.browser ## Walk through the dashboard in a real browser; SHOTS=docs/images makes the pictures of the documents.
	@$(APART) $(BIN)/python -m tests.ui $(if $(SHOTS),--shots $(SHOTS))

# What browsers run was made by others: it comes from npm as it is, and its checksums are kept.
VENDOR := gateway/dashboard/static/vendor
.PHONY: vendor
vendor: ## Fetch the scripts and the style sheet of the dashboard again, and compare their checksums.
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	npm pack --silent --pack-destination "$$folder" htmx.org@2.0.11 idiomorph@0.8.0 @picocss/pico@2.1.1 uplot@1.6.32 >/dev/null; \
	for one in "$$folder"/*.tgz; do mkdir "$${one%.tgz}"; tar xzf "$$one" -C "$${one%.tgz}" --strip-components 1; done; \
	cp "$$folder"/htmx.org-*/dist/htmx.min.js "$$folder"/idiomorph-*/dist/idiomorph-ext.min.js \
	    "$$folder"/picocss-pico-*/css/pico.classless.min.css "$$folder"/uplot-*/dist/uPlot.iife.min.js \
	    "$$folder"/uplot-*/dist/uPlot.min.css $(VENDOR)/; \
	cp "$$folder"/htmx.org-*/LICENSE $(VENDOR)/htmx.LICENSE; \
	cp "$$folder"/idiomorph-*/LICENSE $(VENDOR)/idiomorph.LICENSE; \
	cp "$$folder"/picocss-pico-*/LICENSE.md $(VENDOR)/pico.LICENSE; \
	cp "$$folder"/uplot-*/LICENSE $(VENDOR)/uplot.LICENSE; \
	cd $(VENDOR) && sha256sum --check --quiet SHA256SUMS

.PHONY: texts
texts: $(READY) ## List the texts of the pages in gateway/dashboard/texts/en.json.
	@$(BIN)/python -m tests.scripts.texts

proxy: setup ## Update an application behind nginx under load.
	@command -v nginx >/dev/null || apt-get install -y -qq --no-install-recommends nginx-light >/dev/null
	@$(APART) $(BIN)/python -m tests.scripts.nginx

# What is said of the commit that an image is built from.
OF_COMMIT = --build-arg REVISION=$$(git rev-parse HEAD) --build-arg SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) \
    --build-arg CREATED=$$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ)

image: ## Build the container image, and write its SBOM to build/image; BASE is the Debian image with Python below it.
	@docker build $(if $(BASE),--build-arg BASE=$(BASE)) $(OF_COMMIT) -t pushdeploy .
	@mkdir -p build/image && docker run --rm --entrypoint cat pushdeploy /opt/gateway/share/sbom.cdx.json > build/image/sbom.cdx.json

image-test compose-test: DEBIAN += debootstrap podman
unit-test: DEBIAN += debootstrap
image-test: setup ## Build the image twice on a Debian base made here, compare the two, and run one against an engine.
	@$(BIN)/python -m tests.scripts.image

COMPOSE_READY := build/compose-venv/.ready
$(COMPOSE_READY): requirements-compose.txt
	@mkdir -p build && $(PYTHON) -m venv --clear build/compose-venv
	@build/compose-venv/bin/python -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes -r requirements-compose.txt
	@touch $@

.PHONY: compose-test
compose-test: setup $(COMPOSE_READY) ## Start compose.yaml, with the socket and with a proxy before it, and deploy a push in each.
	@$(BIN)/python -m tests.scripts.compose prepare
	@$(ALONE) $(BIN)/python -m tests.scripts.compose

.PHONY: unit-test
unit-test: setup ## Type docs/install.md in a Debian that systemd boots here, and see what its unit does; SCENES="installs restarts" for some of it.
	@$(BIN)/python -m tests.scripts.unit $(SCENES)

.PHONY: cli
cli: $(READY) ## Write docs/cli.md.
	@$(BIN)/gateway man --format markdown > docs/cli.md

.PHONY: engine-filter
engine-filter: setup ## Run tests of rollouts through deploy/socket-proxy.cfg, but one that runs a program in a container itself.
	@command -v haproxy >/dev/null || apt-get install -y -qq --no-install-recommends haproxy >/dev/null
	@ENGINE_FILTER=1 $(BIN)/python -m pytest -m "not long" -k "not test_the_log_can_be_read" $(or $(TESTS),tests/integration/rollout/test_container.py)

.PHONY: engine-29
engine-29: setup ## Run tests of rollouts on Docker Engine 29 as a client sees it: strict, with a containerd image store.
	@ENGINE_29=1 $(BIN)/python -m pytest $(or $(TESTS),$(ENGINE_29_TESTS))

# Without those that restart an engine, or reach it past what stands before it.
ENGINE_29_TESTS := $(addprefix tests/integration/rollout/test_,container.py adoption.py boot_beside.py manual_changes.py swarm.py)

# In namespaces of its own: no other engine's packet rules and sockets are there.
ALONE := unshare --net --mount sh -c 'ip link set lo up && mount -t tmpfs tmpfs /run && exec "$$@"' --

.PHONY: engines
engines: DEBIAN += debootstrap podman rootlesskit slirp4netns uidmap
engines: setup ## Roll out pushes on the engines that Debian has, each by scenes; ENGINES=podman, or docker-forky of its testing.
	@$(BIN)/python -m tests.scripts.engines prepare $(ENGINES)
	@$(ALONE) $(BIN)/python -m tests.scripts.engines $(or $(ENGINES),docker docker-rootless docker-trixie docker-forky podman podman-forky)

.PHONY: wheel-test
wheel-test: setup ## Install the wheel by pip alone into an empty environment, and run the demonstration and the server there.
	@$(BIN)/python -m tests.scripts.wheel

.PHONY: api
api: $(READY) ## Write docs/api.md.
	@$(BIN)/gateway api --format markdown > docs/api.md

.PHONY: schema
schema: $(READY) ## Write docs/declared.schema.json, the JSON Schema of declarations.
	@$(BIN)/gateway schema > docs/declared.schema.json

requirements: ## Update the pinned dependencies and their hashes.
	uv pip compile -q --upgrade --generate-hashes --no-header --no-emit-index-url --extra ecr --extra embedded --extra ssh --extra keyless pyproject.toml -o requirements.txt
	uv pip compile -q --upgrade --generate-hashes --no-header --no-emit-index-url --group dev -c requirements.txt pyproject.toml -o requirements-dev.txt
	uv pip compile -q --upgrade --generate-hashes --no-header --no-emit-index-url --group ui -o requirements-ui.txt
	uv pip compile -q --upgrade --generate-hashes --no-header --no-emit-index-url --group fuzz -o requirements-fuzz.txt
	uv pip compile -q --upgrade --generate-hashes --no-header --no-emit-index-url --group clients -o requirements-clients.txt
	uv pip compile -q --upgrade --generate-hashes --no-header --no-emit-index-url --group site -o requirements-site.txt
	uv pip compile -q --upgrade --generate-hashes --no-header --no-emit-index-url --group sbom -o requirements-sbom.txt
	uv pip compile -q --upgrade --generate-hashes --no-header --no-emit-index-url --group compose -o requirements-compose.txt

clean: ## Remove what was installed here.
	rm -rf $(VENV) build $(CLIENTS)/node_modules $(CLIENTS)/.venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# The site's generator has a place of its own: what it needs is nothing that the gateway or the tests need.
SITE_READY := build/site-venv/.ready
$(SITE_READY): requirements-site.txt
	@mkdir -p build && $(PYTHON) -m venv --clear build/site-venv
	@build/site-venv/bin/python -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes -r requirements-site.txt
	@touch $@

.PHONY: logs
logs: $(READY) ## Write the events of the log into docs/logs.md.
	@$(BIN)/python -m tests.scripts.log_events

.PHONY: llms
llms: $(READY) ## Write docs/llms.txt from the documents.
	@$(BIN)/python -m tests.scripts.llms

.PHONY: site
site: $(SITE_READY) ## Make a site of the documents in build/site; a broken link fails.
	@build/site-venv/bin/python -m tests.scripts.site

.PHONY: ci-template
ci-template: $(READY) ## Write the script into the GitLab component.
	@$(BIN)/python -m tests.scripts.ci_template

"""Tests of the import of compose files."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from gateway.model.configuration import Configuration, parse_command
from gateway.model.declared import yaml_text
from gateway.model.declared.compose import Source, convert
from gateway.model.declared.forms import DeclarationForm
from gateway.model.declared.objects import parse_form
from gateway.model.errors import InvalidInput

_SOURCE = Source("/srv/shop", {"TAG": "1.2", "EMPTY": ""}, read_variables=lambda _: {"FROM_FILE": "yes", "A": "file"})


_MANY = """
    user: 1000
    working_dir: /app
    init: true
    read_only: true
    cap_add: [NET_ADMIN]
    hostname: web
    stop_grace_period: 90s
    mem_limit: 1g
    labels: [a=b, c]
"""
_WITH_FILES = """
    secrets: [s, {source: s, target: t}]
    configs: [{source: c, target: /etc/c}]
secrets: {s: {file: ./s.txt}}
configs: {c: {content: hello}}
"""
_SETTINGS = {field.alias for field in Configuration.model_fields.values()}


def service(text: str, source: Source = _SOURCE) -> tuple[dict[str, Any], list[str]]:
    """Return the application that a service with these keys becomes, and what is said about it."""
    converted = convert(yaml_text.parse(f"services:\n  web:\n    image: x\n{text}").value, source)
    parse_form(DeclarationForm, converted.document)
    made = converted.document["applications"]["web"]
    kept = {
        name: value
        for name, value in made.items()
        if name in {field.alias for field in Configuration.model_fields.values()}
    }
    Configuration.model_validate(
        {
            **kept,
            "mounts": [
                {name: one for name, one in mount.items() if name != "contentFrom"} for mount in made.get("mounts", ())
            ],
        }
    )
    return {name: value for name, value in made.items() if name != "dockerImage"}, converted.notes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("    command: run --fast 'a b'", {"command": "run --fast 'a b'"}),
        ("    ports: [80:8080, 127.0.0.1:53:53/udp]",
         {"ports": [{"publishedPort": 80, "targetPort": 8080},
                    {"publishedPort": 53, "targetPort": 53, "protocol": "udp", "hostIp": "127.0.0.1"}]}),
        ("    ports: ['[::1]:80:80', {target: 90, published: '91', mode: host}]",
         {"ports": [{"publishedPort": 80, "targetPort": 80, "hostIp": "::1"},
                    {"publishedPort": 91, "targetPort": 90, "publishMode": "host"}]}),
        ("    ports: ['80-81:90-91']",
         {"ports": [{"publishedPort": 80, "targetPort": 90}, {"publishedPort": 81, "targetPort": 91}]}),
        ("    volumes: [data:/data, ./conf:/conf:ro, /etc/x:/x]",
         {"mounts": [{"source": "shop_data", "target": "/data"},
                     {"type": "bind", "source": "/srv/shop/conf", "target": "/conf", "readOnly": True},
                     {"type": "bind", "source": "/etc/x", "target": "/x"}]}),
        ("    tmpfs: [/run, '/tmp:size=64m,mode=755']",
         {"tmpfs": [{"target": "/run"}, {"target": "/tmp", "size": "64m"}]}),
        ("    environment: {A: 1, B: true, C: '${TAG}'}\n    env_file: .env",
         {"env": {"FROM_FILE": "yes", "A": "1", "B": "true", "C": "1.2"}}),
        ("    environment: [A=b=c, TAG]", {"env": {"A": "b=c", "TAG": "1.2"}}),
        ("    restart: on-failure:3", {"restartPolicySwarm": {"Condition": "on-failure", "MaxAttempts": 3}}),
        ("    restart: 'no'", {"restartPolicySwarm": {"Condition": "none"}}),
        ("    restart: always", {}),
        ("    healthcheck: {test: curl x, interval: 1m30s, retries: 2}",
         {"healthCheckSwarm": {"Test": ["CMD-SHELL", "curl x"], "Interval": 90 * 10**9, "Retries": 2}}),
        ("    healthcheck: {disable: true}", {"healthCheckSwarm": {"Test": ["NONE"]}}),
        ("    deploy: {replicas: 2, resources: {limits: {cpus: '0.5', memory: 512M}}}",
         {"replicas": 2, "cpuLimit": "0.5", "memoryLimit": "512M"}),
        ("    deploy: {mode: global}", {"modeSwarm": {"Global": {}}}),
        ("    extra_hosts: ['a:10.0.0.1', b=10.0.0.2]", {"extraHosts": ["a:10.0.0.1", "b:10.0.0.2"]}),
        ("    ulimits: {nofile: 100, core: {soft: 0, hard: -1}}",
         {"ulimitsSwarm": [{"Name": "nofile", "Soft": 100, "Hard": 100}, {"Name": "core", "Soft": 0, "Hard": -1}]}),
        (_MANY,
         {"user": "1000", "workingDir": "/app", "init": True, "readOnly": True, "capAdd": ["NET_ADMIN"],
          "hostname": "web", "stopGrace": 90, "memoryLimit": "1g", "labels": {"a": "b", "c": ""}}),
        (_WITH_FILES,
         {"mounts": [{"type": "file", "target": "/run/secrets/s", "contentFrom": {"file": "./s.txt"}},
                     {"type": "file", "target": "/run/secrets/t", "contentFrom": {"file": "./s.txt"}},
                     {"type": "file", "target": "/etc/c", "content": "hello"}]}),
        ("    networks: [back, out]\nnetworks: {back: {name: real}, out: {external: true}}",
         {"networks": ["real", "out"]}),
    ],
)  # fmt: skip
def test_a_key_of_a_service_is_carried(text: str, expected: dict[str, Any]) -> None:
    assert service(text)[0] == expected


def test_words_of_a_command_stay_the_same_words() -> None:
    made, _ = service('    command: [sh, -c, "echo \'a b\' \\"c\\" $$HOME"]')
    assert parse_command(made["command"]) == ["sh", "-c", "echo 'a b' \"c\" $HOME"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("    privileged: true", "web.privileged: not carried: "),
        ("    entrypoint: x", "web.entrypoint: not carried: "),
        ("    privilegd: true", "web.privilegd: not carried: compose has no such key either"),
        ("    ports: ['80']", "web.ports: 80 is not carried"),
        ("    volumes: [/data]", "web.volumes: /data is not carried"),
        ("    labels: {gateway.x: y}", "web.labels.gateway.x: not carried"),
        ("    deploy: {placement: {}}", "web.deploy.placement: not carried"),
        ("    environment: [NOT_SET]", "web.environment.NOT_SET: it has no value here"),
        ("    environment: {A: 'x$${{project.SECRET}}'}", "web.environment.A: not carried: ${{ begins"),
        ("    hostname: h${NOT_SET}", "$NOT_SET: it is not set, so it is empty"),
        ("    networks: {back: {aliases: [a]}}", "web.networks.back: aliases not carried"),
        ("    x-more: 1", "web.x-more: an extension"),
        ("    secrets: [s]\nsecrets: {s: {external: true}}", "web.secrets: s is not carried"),
        ("    volumes: [{type: bind, source: /a, target: /b, bind: {propagation: shared}}]",
         "web.volumes: propagation of /b"),
        ("version: '3'", "version: compose ignores it too"),
    ],
)  # fmt: skip
def test_a_key_that_is_not_carried_is_named(text: str, said: str) -> None:
    assert [one for one in service(text)[1] if one.startswith(said)]


@pytest.mark.parametrize(
    ("text", "field", "why"),
    [
        ("services: {web: {build: .}}", "services.web.image", "it is only built"),
        ("services: {web: {}}", "services.web.image", "it has no image"),
        ("services: {web: {image: x, extends: {service: y}}}", "services.web.extends", "docker compose config"),
        ("services: {}\ninclude: [x]", "include", "docker compose config"),
        ("web: {image: x}", "services", "it has no services"),
        ("services: {web: {image: 'x:${A:?needed}'}}", "services.web.image", "the variable A is needed: needed"),
        ("services: {web: {image: 'x:${A'}}", "services.web.image", "not closed"),
        ("services: {web: {image: 'x$'}}", "services.web.image", "written $$"),
        ("services: {web: {image: x, ports: [a]}}", "services.web.ports.0", "is not a port"),
        ("services: {web: {image: x, ports: ['80:80-90']}}", "services.web.ports.0", "differ in length"),
        ("services: {web: {image: x, volumes: ['~/a:/a']}}", "services.web.volumes.0", "who runs compose"),
        ("services: {web: {image: x, secrets: [s]}}", "services.web.secrets", "there is no 's'"),
        ("services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}", "services.a.depends_on",
         "circle"),
        (f"services: {{web: {{image: x, stop_grace_period: '{'1' * 500_000}'}}}}", "services.web.stop_grace_period",
         "not a duration"),
        ("services: {web: {image: x, stop_grace_period: soon}}", "services.web.stop_grace_period", "not a duration"),
    ],
)  # fmt: skip
def test_what_no_application_can_be_made_of_is_refused(text: str, field: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why.replace("$", r"\$")) as caught:
        convert(yaml_text.parse(text).value, _SOURCE)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$TAG-${TAG}", "1.2-1.2"),
        ("${A:-b}${A-c}", "bc"),
        ("${EMPTY:-b}${EMPTY-c}", "b"),
        ("${TAG:+x}${A:+y}${EMPTY+z}", "xz"),
        ("${A:-${B:-${TAG}}}", "1.2"),
        ("$$TAG ${A:-$$}", "$TAG $"),
    ],
)
def test_variables_are_replaced_as_compose_does(text: str, expected: str) -> None:
    assert service(f"    hostname: x\n    labels: {{a: '{text}'}}")[0]["labels"]["a"] == expected


def test_services_keep_the_names_of_compose_and_the_order_becomes_waves() -> None:
    text = """
        name: shop
        x-base: &base {restart: always}
        services:
          web: {<<: *base, image: web, depends_on: {api: {condition: service_healthy}}}
          api: {<<: *base, image: api, depends_on: [db]}
          db: {image: db, volumes: [d:/d]}
          job: {image: job, profiles: [jobs]}
        volumes: {d: {external: true, name: old}}
    """
    converted = convert(yaml_text.parse(text).value, Source("/x", project="store"))
    inside = converted.document["projects"]["store"]["environments"]["production"]["applications"]
    assert [one["networks"] for one in inside.values()] == [["shop_default"]] * 3
    assert inside["db"]["mounts"] == [{"source": "old", "target": "/d"}]
    members = converted.document["groups"]["store.shop"]["members"]
    assert members == {"store/production/web": 3, "store/production/api": 2, "store/production/db": 1}
    assert any(one.startswith("job: left out") for one in converted.notes)
    with_job = convert(yaml_text.parse(text).value, Source("/x", profiles=frozenset({"jobs"})))
    assert with_job.document["applications"].keys() == {"web", "api", "db", "job"}
    assert "Default/production/web" in with_job.document["groups"]["shop"]["members"]


@pytest.mark.parametrize(
    ("top", "source", "expected"),
    [
        ("name: blog\n", _SOURCE, "blog"),
        ("", _SOURCE, "shop"),
        ("name: blog\n", Source("/srv/shop", project="Live"), "Live.blog"),
        ("", Source("/srv/shop", project="Live", file="jobs.yaml"), "Live.shop.jobs"),
        ("", Source("/srv/shop", file="docker-compose.yml"), "shop"),
        ("", Source("/srv/shop", project="My Shop"), "My-Shop.shop.ef4acee4"),
        ("", Source("/srv/shop", project="Лавка"), "shop.0b7c90ac"),
    ],
)
def test_each_compose_file_is_a_declaration_of_its_own(top: str, source: Source, expected: str) -> None:
    """Named as compose names the project: else the second one would prune what the first one made."""
    converted = convert(yaml_text.parse(f"{top}services: {{web: {{image: x}}}}").value, source)
    assert converted.document["declaration"] == expected
    parse_form(DeclarationForm, converted.document)


@pytest.mark.parametrize("text", ["privileged: false", "tty: 'false'", "devices: []", "logging: {}", "links: []"])
def test_a_key_that_changes_nothing_is_not_named(text: str) -> None:
    assert service(f"    {text}\n") == ({}, [])


@pytest.mark.parametrize("text", ["privileged: true", "mem_swappiness: 0", "entrypoint: []"])
def test_a_key_that_changes_something_is_named(text: str) -> None:
    assert len(service(f"    {text}\n")[1]) == 1


_WHOLE = """
name: shop
services:
  web:
    image: acme/web:1
    command: [serve]
    profiles: [all]
    ports: ["8080:80", {target: 80, published: 81, protocol: tcp, mode: host, host_ip: 192.0.2.1}]
    environment: {A: b}
    env_file: [x, {path: y, required: false}]
    volumes:
      - d:/d:ro
      - {type: bind, source: ./a, target: /b, bind: {a: 1}}
      - {type: tmpfs, target: /t, tmpfs: {size: 5}}
    tmpfs: [/run, "/x:size=5m"]
    secrets: [s, {source: s, target: x, uid: "1"}]
    configs: [c]
    networks: {n: {aliases: [q]}}
    depends_on: {db: {condition: service_healthy}}
    healthcheck: {test: [CMD, a], interval: 5s, retries: 3, disable: false}
    ulimits: {nofile: {soft: 1, hard: 2}, nproc: 5}
    deploy: {replicas: 2, mode: replicated, resources: {limits: {cpus: "1", memory: 5m}}}
    labels: {a: b}
    extra_hosts: [a:b]
    restart: always
    stop_grace_period: 5s
    cap_add: [A]
    user: "1"
    init: true
  db: {image: acme/db}
networks: {n: {external: true, name: z}}
volumes: {d: {external: {name: q}}}
secrets: {s: {file: ./s}}
configs: {c: {content: x}}
"""


def with_each_part_replaced(whole: Any, by: Any) -> Iterator[Any]:
    """Yield the value as often as it has parts, each time with another one replaced."""
    for name in whole if isinstance(whole, dict) else range(len(whole)) if isinstance(whole, list) else ():
        yield (whole | {name: by}) if isinstance(whole, dict) else [*whole[:name], by, *whole[name + 1 :]]
        for part in with_each_part_replaced(whole[name], by):
            yield (whole | {name: part}) if isinstance(whole, dict) else [*whole[:name], part, *whole[name + 1 :]]


@pytest.mark.parametrize(
    "by", [None, True, 7, 1.5, 10**30, "x", "", "${A:-${B}}", [], [[]], [{}], {}, {"a": []}, {"": ""}]
)
def test_a_part_of_any_kind_is_carried_or_refused(by: Any) -> None:
    source = Source("/srv/shop", profiles=frozenset({"all"}), read_variables=lambda _: {"A": "file"})
    whole = yaml_text.parse(_WHOLE).value
    assert convert(whole, source).document["applications"].keys() == {"web", "db"}
    for changed in with_each_part_replaced(whole, by):
        with suppress(InvalidInput):
            convert(changed, source)


def test_no_value_becomes_the_name_of_a_variable_that_the_file_has_nothing_to_do_with() -> None:
    source = Source("/srv/shop", read_variables=lambda _: {"FROM_FILE": "${{project.SECRET}}", "KEPT": "${"})
    text = "    env_file: [x]\n    environment: {A: '$${{environment.SECRET}}', B: '$$A'}"
    assert service(text, source)[0]["env"] == {"KEPT": "${", "B": "$A"}


def test_a_long_chain_of_services_becomes_as_many_waves() -> None:
    last = 499
    services = {f"s{number}": {"image": "x", "depends_on": [f"s{number + 1}"]} for number in range(last)}
    converted = convert({"services": {**services, f"s{last}": {"image": "x"}}}, _SOURCE)
    (group,) = converted.document["groups"].values()
    assert [group["members"][f"Default/production/s{number}"] for number in (0, last)] == [last + 1, 1]

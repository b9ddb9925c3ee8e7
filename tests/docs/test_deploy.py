"""The files in deploy/ match the schemas of Kubernetes and systemd, and umbel's commands, settings and routes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import click
import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from support.docs.pages import ROOT
from support.docs.served import UMBEL
from umbel import Settings
from umbel.workers.cli.main import cli

KUBERNETES = ROOT / "deploy" / "kubernetes"
UNIT = ROOT / "deploy" / "systemd" / "umbel-worker@.service"
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((KUBERNETES / "umbel.yaml").read_text()))
SCALED: dict[str, Any] = yaml.safe_load((KUBERNETES / "keda.yaml").read_text())
DEPLOYMENTS = {each["metadata"]["name"]: each for each in OBJECTS if each["kind"] == "Deployment"}


class Part(BaseModel):
    """Part of a KEDA object. No package has its schema: these are the fields of `keda.sh/v1alpha1` that may be used."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class Target(Part):
    """The scaled object, by default a Deployment."""

    name: str


class Prometheus(Part):
    """A query to Prometheus; all values are strings."""

    server_address: str
    query: str
    threshold: str


class Trigger(Part):
    """What is measured. A waiting time cannot be divided among workers, so its metric type is `Value`."""

    type: Literal["prometheus"]
    metric_type: Literal["Value"]
    metadata: Prometheus


class Scaling(Part):
    """The `spec`. It has no fallback: KEDA allows one only for metrics of type `AverageValue`."""

    scale_target_ref: Target
    polling_interval: int
    cooldown_period: int
    min_replica_count: int
    max_replica_count: int
    triggers: list[Trigger]


def pods() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the specification of each pod, and its container."""
    for deployment in DEPLOYMENTS.values():
        spec = deployment["spec"]["template"]["spec"]
        [container] = spec["containers"]
        yield spec, container


def check_command(words: list[str]) -> None:
    """Raise if the command or an option does not exist."""
    command, *arguments = words
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    found.make_context(command, arguments)


@pytest.mark.parametrize("manifest", OBJECTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_a_manifest_fits_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_scaled_object_has_the_fields_that_keda_reads() -> None:
    assert (SCALED["apiVersion"], SCALED["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    scaling = Scaling.model_validate(SCALED["spec"])
    assert 0 < scaling.min_replica_count < scaling.max_replica_count
    assert all(float(trigger.metadata.threshold) > 0 for trigger in scaling.triggers)


def test_containers_and_their_probes_use_commands_that_there_are() -> None:
    for _, container in pods():
        check_command(container["args"])
        probes = [value for name, value in container.items() if name.endswith("Probe")]
        assert len(probes) == 2
        for words in [probe["exec"]["command"] for probe in probes if "exec" in probe]:
            assert words[0] == "umbel"
            check_command(words[1:])


def test_the_environment_has_only_settings_that_umbel_knows() -> None:
    [config] = [each for each in OBJECTS if each["kind"] == "ConfigMap"]
    for _, container in pods():
        given = dict.fromkeys((entry["name"] for entry in container["env"]), "redis://redis:6379/0")
        assert Settings.from_environment(given | config["data"]).redis_url
    for target in config["data"]["UMBEL_TARGETS"].split():
        assert (ROOT / target).is_file()


def test_pods_have_the_time_to_drain_and_no_rights() -> None:
    for spec, container in pods():
        assert spec["terminationGracePeriodSeconds"] > Settings().drain_seconds + 5
        assert spec["securityContext"]["runAsNonRoot"]
        assert f"--uid {spec['securityContext']['runAsUser']} umbel" in (ROOT / "Dockerfile").read_text()
        assert spec["enableServiceLinks"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_selectors_lead_to_the_pods_they_mean() -> None:
    labels = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in DEPLOYMENTS.items()}
    for each in OBJECTS:
        selector = each.get("spec", {}).get("selector")
        if selector is not None:
            name = "umbel-server" if each["kind"] == "Service" else each["metadata"]["name"]
            assert selector.get("matchLabels", selector) == labels[name]
    assert SCALED["spec"]["scaleTargetRef"]["name"] in DEPLOYMENTS
    assert SCALED["spec"]["minReplicaCount"] == DEPLOYMENTS["umbel-worker"]["spec"]["replicas"]


def test_a_server_answers_its_probes_without_a_token() -> None:
    container = DEPLOYMENTS["umbel-server"]["spec"]["template"]["spec"]["containers"][0]
    probed = {container[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")}
    assert probed == {word.partition("=")[2] for word in container["args"] if word.startswith("--public-path=")}


def test_queries_ask_for_metrics_that_the_docs_list() -> None:
    listed = set(re.findall(r"^\| `(umbel_\w+)`", (ROOT / "docs/guides/operations.md").read_text(), re.MULTILINE))
    for trigger in SCALED["spec"]["triggers"]:
        for name in re.findall(r"umbel_\w+", trigger["metadata"]["query"]):
            assert name.removesuffix("_bucket") in listed


def test_the_unit_fits_systemd_and_starts_a_worker(tmp_path: Path) -> None:
    text = UNIT.read_text()
    words = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)[0].split()
    assert words[0].endswith("/umbel")
    check_command(words[1:])
    seconds = int(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[0])
    assert seconds > Settings().drain_seconds + 10
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(words[0], sys.executable if not Path(UMBEL).exists() else str(UMBEL)))
    checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=110)
    assert checked.returncode == 0, checked.stderr
    assert str(unit) not in checked.stderr

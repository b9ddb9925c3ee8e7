"""The containers of the Kubernetes manifests as processes: read-only, unprivileged, as process 1, until SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from support.docs.pages import ROOT
from support.docs.served import UMBEL, Served
from support.eventually import eventually
from support.processes.driving import descendants
from support.processes.namespaces import in_container
from umbel.workers.embedded.configuration import free_port
from umbel.workers.embedded.supervisor import Supervisor

OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy/kubernetes/umbel.yaml").read_text()))
CONTAINERS = {
    each["metadata"]["name"]: each["spec"]["template"]["spec"]["containers"][0]
    for each in OBJECTS
    if each["kind"] == "Deployment"
}


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
def test_worker_and_server_need_no_rights_and_no_writable_file_system(
    tmp_path: Path, durable_redis_url: str, pool: str
) -> None:
    contained, port = in_container(tmp_path), free_port()
    environment = {
        "UMBEL_REDIS_URL": durable_redis_url,
        "UMBEL_KEY_PREFIX": f"contained-{pool}",
        "UMBEL_SERVER_TOKEN": "secret",
        "UMBEL_TARGETS": str(ROOT / "examples/approval.py"),
        "HOME": "/nonexistent",
        "TMPDIR": str(tmp_path / "writable"),
        "PYTHONDONTWRITEBYTECODE": "",
    }

    def container(name: str, *more: str) -> Served:
        words = [f"--port={port}" if word.startswith("--port=") else word for word in CONTAINERS[name]["args"]]
        return Served(supervisor, tmp_path, name, [*contained, UMBEL, *words, *more], environment)

    with (
        Supervisor() as supervisor,
        container("umbel-worker", "--pool", pool) as worker,
        container("umbel-server") as server,
    ):
        worker.says(" ready.")
        probe = CONTAINERS["umbel-worker"]["livenessProbe"]["exec"]["command"]
        pinged = subprocess.run(
            [*contained, UMBEL, *probe[1:]], env=os.environ | environment, capture_output=True, text=True, timeout=60
        )
        assert pinged.returncode == 0, pinged.stderr
        url, token = f"http://127.0.0.1:{port}", {"authorization": "Bearer secret"}
        server.says("the console page and the HTTP API)")
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 200, "the worker is announced")
        body = {"start_event": {"amount": 50}}
        answer = httpx.post(f"{url}/workflows/Approval/run", json=body, headers=token, timeout=60)
        assert "small sums need no asking" in answer.json()["result"]["value"]["result"]

        for each in (worker, server):
            os.kill(min(descendants(each.process.pid)), signal.SIGTERM)
        assert [each.process.wait(40) for each in (worker, server)] == [0, 0]
        assert "Traceback" not in worker.log() + server.log()
        assert "Read-only" not in worker.log() + server.log()

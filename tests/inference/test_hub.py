"""A hub on this machine: an HTTP server that answers what huggingface_hub asks."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Repositories by name, each with its files."""

    def log_message(self, *_):
        pass

    def _json(self, content: object, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        repositories = self.server.repositories
        if self.headers.get("Authorization") != "Bearer secret":
            self._json({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            repositories.setdefault(name, {})
            self._json({"url": f"http://{self.headers['Host']}/{name}", "name": name})
        elif self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif "/commit/" in self.path:
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
            self._json({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        else:
            self._json({"error": f"unknown: {self.path}"}, 404)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name, _, rest = self.path.lstrip("/").partition("/resolve/")
        data = self.server.repositories.get(name, {}).get(rest.partition("/")[2])
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if name in self.server.repositories else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for header, value in (
            ("Content-Length", str(len(data))),
            ("ETag", f'"{hashlib.sha256(data).hexdigest()}"'),
            ("X-Repo-Commit", COMMIT),
        ):
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repositories = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


PROGRAM = """
import sys, torch
from d2sm_plugin.archs.ffdnet_arch import FFDNet
from d2sm_plugin.errors import CheckpointError
from d2sm_plugin.inference.restorer import Restorer
from d2sm_plugin.weight_files import Description

torch.manual_seed(0)
network = FFDNet(num_feat=8, num_layers=3)
mine = Restorer(network, sigma=25, about=Description({"type": "FFDNet", "num_feat": 8, "num_layers": 3}))
print(mine.push_to_hub("me/denoiser"))
theirs = Restorer.from_hub("me/denoiser", sigma=25, device="cpu")
image = torch.rand(3, 20, 30)
assert torch.equal(theirs(image), mine(image))
for repository, file in (("me/denoiser", "other.safetensors"), ("me/nothing", "model.safetensors")):
    try:
        Restorer.from_hub(repository, file)
    except CheckpointError as error:
        print(error)
"""


def run(hub, tmp_path, token):
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        check=False,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_weights_go_to_a_hub_and_come_back(hub, tmp_path):
    done = run(hub, tmp_path, "secret")
    assert done.returncode == 0, done.stderr
    url, missing_file, missing_repository = done.stdout.splitlines()
    assert url.endswith("/me/denoiser")
    assert missing_file.startswith("me/denoiser: cannot fetch other.safetensors from the hub (")
    assert missing_repository.startswith("me/nothing: cannot fetch model.safetensors from the hub (")
    assert list(hub.repositories["me/denoiser"]) == ["model.safetensors"]


def test_without_a_login_it_is_one_line(hub, tmp_path):
    done = run(hub, tmp_path, "wrong")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "CheckpointError: me/denoiser: cannot upload model.safetensors to the hub" in last
    assert "hf auth login" in last

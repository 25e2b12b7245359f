"""tus-js-client uploads to the file server, as browsers and Node.js programs do."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import starting

VERSION = "4.3.1"

SEND = """
const fs = require("fs"), tus = require("tus-js-client");
const [endpoint, file, name, kind, storage] = process.argv.slice(2);
const common = {
  endpoint, chunkSize: 300000, retryDelays: [100, 200, 400],
  metadata: { filename: name, directory: "/in/" },
  urlStorage: new tus.FileUrlStorage(storage), storeFingerprintForResuming: true,
  uploadSize: fs.statSync(file).size,
  onError: error => { console.error(String(error)); process.exit(1); },
};
const finish = (offsets, url) => console.log(JSON.stringify({ offsets, url }));
if (kind === "parallel") {
  const options = { ...common, parallelUploads: 3, chunkSize: 100000,
    metadataForPartialUploads: {}, uploadSize: null };
  const upload = new tus.Upload(fs.createReadStream(file), {
    ...options, onSuccess: () => finish([], upload.url) });
  upload.start();
} else {
  const offsets = [];
  const first = new tus.Upload(fs.createReadStream(file), {
    ...common,
    onChunkComplete: async (size, accepted) => {
      offsets.push(accepted);
      if (offsets.length !== 2) return;
      await first.abort();
      const again = new tus.Upload(fs.createReadStream(file), {
        ...common,
        onChunkComplete: (size, accepted) => offsets.push(accepted),
        onSuccess: () => finish(offsets, again.url) });
      const found = await again.findPreviousUploads();
      again.resumeFromPreviousUpload(found[0]);
      again.start();
    } });
  first.start();
}
"""


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Install tus-js-client and return a function that runs the script above."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node")
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
    try:
        made = subprocess.run(
            [*command, f"tus-js-client@{VERSION}"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install tus-js-client within 60 s")
    if made.returncode:
        pytest.skip(f"npm could not install tus-js-client: {made.stderr.strip()[-300:]}")
    (folder / "send.js").write_text(SEND)

    def run(*arguments: object) -> Any:
        done = subprocess.run(
            ["node", "send.js", *map(str, arguments)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("kind", ["resumed", "parallel"])
def test_tus_js_client(node: Any, tmp_path: Path, kind: str) -> None:
    served, source = tmp_path / "served", tmp_path / "source"
    (served / "in").mkdir(parents=True)
    data = secrets.token_bytes(2_000_000)
    source.write_bytes(data)
    command = [sys.executable, "-m", "noria", "serve", "files", str(served), "--upload"]
    process = subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, text=True, env=starting.environment()
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+/", process.stdout.readline())
        assert found
        answer = node(f"{found[0]}-/uploads/", source, "über.bin", kind, tmp_path / "urls.json")
        assert (served / "in" / "über.bin").read_bytes() == data
        assert "/-/uploads/" in answer["url"]
        if kind == "resumed":
            assert answer["offsets"] == [300000 * n for n in range(1, 7)] + [2_000_000]
        names = os.listdir(served / ".noria-uploads")
        assert not [name for name in names if name.endswith(".data")]
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0

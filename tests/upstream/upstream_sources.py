"""What a suite needs: its source, unpacked, and a virtual environment."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import venv

import noria

HERE = pathlib.Path(__file__).resolve().parent
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


class Unavailable(Exception):
    """A suite's source or its environment could not be had."""


def make_venv(work: pathlib.Path, name: str, tables: dict[str, dict]) -> pathlib.Path:
    """Make a virtual environment with noria and the suites' requirements; return its Python.

    Without pip: an environment that was made with these requirements is used again.
    """
    folder = work / f"venv-{name}-{PYTHON}"
    python = folder / "bin" / "python"
    needs = [*tables["venv"][name]["requirements"]]
    for suite in tables["suite"].values():
        if suite["venv"] == name:
            needs += suite.get("wheels", [])
    needs = sorted(set(needs))
    record = folder / "requirements.json"
    if record.exists() and json.loads(record.read_text()) == needs:
        return python
    venv.create(folder, clear=True, with_pip=True)
    command([python, "-m", "pip", "install", "-q", "--prefer-binary", *needs])
    (site,) = folder.glob("lib/python3*/site-packages")
    # The noria that runs this, built by the same Python, and nothing else from its environment.
    (site / "noria").symlink_to(pathlib.Path(noria.__file__).resolve().parent)
    (site / "upstream.pth").write_text(f"{HERE}\nimport upstream_loop\n")
    record.write_text(json.dumps(needs))
    return python


def unpack(work: pathlib.Path, name: str, suite: dict, python: pathlib.Path) -> pathlib.Path:
    """Download a suite's source and unpack it; return the folder that its tests run in."""
    downloads = work / "downloads"
    downloads.mkdir(exist_ok=True)
    archive = (
        from_debian(downloads, suite) if "debian" in suite else from_index(downloads, suite, python)
    )
    scratch = work / f"unpack-{name}"
    target = work / name
    for folder in (scratch, target):
        shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")
    (root,) = scratch.iterdir()
    if "only" not in suite:
        root.rename(target)
    else:
        target.mkdir()
        for part in suite["only"]:
            (root / part).rename(target / part)
    shutil.rmtree(scratch, ignore_errors=True)
    pyproject = target / "pyproject.toml"
    if not (target / "pytest.ini").exists() and not (
        pyproject.exists() and "[tool.pytest" in pyproject.read_text()
    ):
        # Else pytest would take what it finds in a folder above.
        (target / "pytest.ini").write_text("[pytest]\n")
    return target


def from_index(downloads: pathlib.Path, suite: dict, python: pathlib.Path) -> pathlib.Path:
    """Download an sdist by pip."""
    name, version = suite["sdist"].split("==")
    archive = downloads / f"{name}-{version}.tar.gz"
    if not archive.exists():
        pip = [python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name]
        command([*pip, "-d", downloads, suite["sdist"]])
    return archive


def from_debian(downloads: pathlib.Path, suite: dict) -> pathlib.Path:
    """Download a source package's tarball by apt-get, from the mirrors that it is set up for."""
    package, release = suite["debian"].split("/")
    archive = next(downloads.glob(f"{package}_*.orig.tar.gz"), None)
    if archive is None:
        if shutil.which("apt-get") is None:
            raise Unavailable("its sdist has no tests, and Debian's source package needs apt-get")
        state = downloads / "apt"
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        options = ["-o", f"Dir::Etc::SourceList={state}/sources.list"]
        options += ["-o", "Dir::Etc::SourceParts=/dev/null", "-o", f"Dir::Cache={state}/cache"]
        options += ["-o", f"Dir::State::lists={state}/lists"]
        options += ["-o", f"APT::Sandbox::User={os.environ.get('USER', 'root')}"]
        for mirror in debian_mirrors():
            (state / "sources.list").write_text(
                "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
                f"{mirror} {release} main\n"
            )
            for step in (["update"], ["source", "--download-only", "--tar-only", package]):
                subprocess.run(
                    ["apt-get", "-q", *options, *step], cwd=downloads, capture_output=True
                )
            archive = next(downloads.glob(f"{package}_*.orig.tar.gz"), None)
            if archive is not None:
                break
        else:
            raise Unavailable(f"no Debian mirror that apt-get knows has {package} of {release}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != suite["sha256"]:
        raise Unavailable(f"{archive.name} has SHA-256 {digest}, not the one in suites.toml")
    return archive


def debian_mirrors() -> list[str]:
    """Addresses of the package repositories that apt-get is set up for."""
    answer = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
    )
    return list(dict.fromkeys(answer.stdout.split()))


def command(words: list[object]) -> None:
    """Run a command; raise Unavailable with what it printed if it fails."""
    answer = subprocess.run(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if answer.returncode:
        raise Unavailable("\n".join(answer.stdout.splitlines()[-20:]))

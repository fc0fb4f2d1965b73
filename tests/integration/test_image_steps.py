"""The image's steps without Docker: the script that the Dockerfile runs, on the files that .dockerignore lets in."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNREACHABLE = ("Max retries exceeded", "NewConnectionError", "Temporary failure in name resolution", "ConnectTimeout")


def context(target: Path) -> Path:
    """What a build sees, laid out as the Dockerfile copies it."""
    target.mkdir()
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line.startswith("!"):
            source = ROOT / line.removeprefix("!")
            if source.is_dir():
                shutil.copytree(source, target / source.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
            else:
                shutil.copy(source, target / source.name)
    return target


def install(folder: Path, task: str, environment: Path) -> None:
    done = subprocess.run(
        ["./install.sh", task, str(environment)],
        cwd=folder,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    if done.returncode and any(sign in done.stderr for sign in UNREACHABLE):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr[-3000:]


def run(environment: Path, folder: Path, *command: str) -> str:
    """As in a container: nothing of this machine's environment, no home, no place to write to."""
    done = subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_worker_runs_from_what_the_image_installs(tmp_path: Path) -> None:
    folder, environment, empty = context(tmp_path / "build"), tmp_path / "env", tmp_path / "empty"
    empty.mkdir()
    install(folder, "dependencies", environment)
    install(folder, "worker", environment)
    shutil.rmtree(folder)  # nothing may be left that points to the sources
    before = files(environment)

    usage = run(environment, empty, "brook-worker", "--help")
    assert all(command in usage for command in ("run", "provision", "inspect"))
    run(environment, empty, "python", "-c", "import worker.app, brook_client, emulator.app, uvloop")
    assert "usage: python -m worker.probe" in run(environment, empty, "python", "-m", "worker.probe", "--help")
    assert files(environment) == before, "it wrote to where the image is read only"
    assert not any(empty.iterdir())

    listing = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"
    installed = {line.partition("==")[0]: line for line in run(environment, empty, "python", "-c", listing).split()}
    assert installed.pop("brook-worker") == f"brook-worker=={importlib.metadata.version('brook-worker')}"
    pinned = set((ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    assert {line for line in installed.values() if line not in pinned} == set(), "not as constraints.txt has it"
    assert not {"pip", "pytest", "hatchling"} & set(installed)

"""Packages of the npm registry for tests, installed once into a cache: no lock file, nothing in the repository."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

INSTALL_S = 300
_ROOT = Path(__file__).resolve().parents[2]


class NodeUnavailableError(Exception):
    """Node, npm or the registry is missing; the message says which. Tests skip with it."""


def _cache_dir() -> Path:
    venv = _ROOT / ".venv"
    return (venv if venv.is_dir() else Path(tempfile.gettempdir())) / "node-cache"


def node() -> str:
    """The node executable."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        raise NodeUnavailableError("node and npm are not on the PATH")
    return found


def installed(name: str, *packages: str) -> Path:
    """A folder whose node_modules holds `packages` (each `name@version`), installing them where it is missing.

    Complete or absent: the folder takes its name only once npm is done, so parallel test runs do not meet halves.
    """
    node()
    target = _cache_dir() / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=target.parent))
    try:
        _npm_install(work, packages)
        work.rename(target)
    except OSError:
        if not target.is_dir():  # else another run was quicker
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _npm_install(folder: Path, packages: tuple[str, ...]) -> None:
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        subprocess.run(
            [*command, "--prefix", str(folder), *packages],
            cwd=folder,
            env={**os.environ, "npm_config_update_notifier": "false"},
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no output"]
        raise NodeUnavailableError(f"npm could not install {', '.join(packages)}: {lines[-1]}") from error
    except subprocess.TimeoutExpired as error:
        raise NodeUnavailableError(f"npm took more than {INSTALL_S} s for {', '.join(packages)}") from error

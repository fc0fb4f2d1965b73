#!/bin/sh
# Builds and installs the worker as its image has it. The Dockerfile runs this, and a test runs the very same.
#
#   install.sh dependencies DIR   make DIR a virtual environment with all that the worker needs
#   install.sh worker DIR         build the wheel and install it there, and nothing else
#
# To be run where pyproject.toml and constraints.txt are. Versions are those of constraints.txt. The environment has no
# pip in it: nothing is installed into a running worker. PYTHON names the interpreter, python3 by default.
set -eu

python="${PYTHON:-python3}"
task="${1:?is missing; use dependencies or worker}"
environment="${2:?is missing; give the folder of the virtual environment}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

install_into() { # install_into DIR ARGUMENTS...
    into="$1"
    shift
    "$python" -m pip --disable-pip-version-check --quiet --python "$into/bin/python" install --no-input "$@"
}

case "$task" in
dependencies)
    "$python" - >"$work/requirements.txt" <<'EXTRAS'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for wanted in (project["dependencies"], *(project["optional-dependencies"][extra] for extra in ("fast", "otlp"))):
    print("\n".join(wanted))
EXTRAS
    "$python" -m venv --without-pip "$environment"
    install_into "$environment" --constraint constraints.txt --requirement "$work/requirements.txt"
    ;;
worker)
    "$python" -m venv --without-pip "$work/builder"
    install_into "$work/builder" --constraint constraints.txt hatchling
    "$work/builder/bin/python" -m hatchling build --target wheel --directory "$work/wheels"
    install_into "$environment" --no-deps --no-index --force-reinstall "$work"/wheels/*.whl
    ;;
*)
    echo "install.sh: $task is not a task; use dependencies or worker" >&2
    exit 2
    ;;
esac

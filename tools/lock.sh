#!/bin/sh
# Writes requirements/run.txt (what the four packages need) and requirements/dev.txt (that and the tools of the tests):
# `make lock`, after a change to the dependencies in pyproject.toml.  Further arguments go to pip-compile (--upgrade).
# Both files hold exact versions and hashes, with what an editable installation builds with.
set -eu
cd "$(dirname "$0")/.."
export PIP_CONFIG_FILE=/dev/null CUSTOM_COMPILE_COMMAND="make lock"
unset PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS || true

.venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    { echo "unimux: the lock is made with Python 3.11: rm -rf .venv; make lock PYTHON=python3.11" >&2; exit 1; }

compile() {
    .venv/bin/python -m piptools compile --quiet --generate-hashes --strip-extras --allow-unsafe \
        --build-deps-for editable --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
        "$@" pyproject.toml
}
compile --output-file requirements/run.txt "$@"
compile --output-file requirements/dev.txt --extra dev --constraint requirements/run.txt "$@"

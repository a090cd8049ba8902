#!/usr/bin/env bash
# test-python.sh BUILD: the Python package. Makes the wheel, repairs it so that it carries what it
# links, installs it into a folder of BUILD, checks its types and runs tests/bindings. BUILD/calotype
# is the program that the package is compared with.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "$1")
python=$(scripts/python-env.sh)
cmake --build "$build" --target calotype_program calotype_shared

scripts/wheel.sh "$(scripts/python-env.sh python/requirements-wheel.txt)" "$build/wheels" "$build/wheel-build"
rm -rf "$build/site"
"$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
  --target "$build/site" "$build"/wheels/calotype-*.whl

types() { "$python" -m mypy --config-file pyproject.toml --cache-dir "$build/mypy" "$@"; }
types
types tests/bindings/types_of_calotype.py examples/python/*.py
types -p comfyui
export PYTHONPATH=$build/site CALOTYPE_WHEELS=$build/wheels
"$python" -m pytest -q -p no:cacheprovider tests/bindings --calotype "$build/calotype"

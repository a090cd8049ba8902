#!/usr/bin/env bash
# test-pip.sh BUILD: what a user's pip does. `pip install .` into a fresh virtual environment; and,
# where there is a Python of 3.12 or later, the abi3 wheel, repaired and installed into another.
# Fetches what they need from PyPI. $PYTHON_ABI3 names that Python where it is not found by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "$1")
# Folders that are new each time must not hide what was compiled before.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
command -v ccache >/dev/null && export CMAKE_CXX_COMPILER_LAUNCHER=ccache

# uses PYTHON: the package decodes and its program runs.
uses() {
  "$1" -c 'import calotype, numpy
image = calotype.AutoencoderKL.from_pretrained().decode(numpy.zeros((1, 16, 2, 2), "float32"), output="np")
assert image.shape == (1, 16, 16, 3), image.shape'
  "$(dirname "$1")/calotype" --version
}

rm -rf "$build/venv-plain"
"${PYTHON:-python3}" -m venv "$build/venv-plain"
timeout 900 "$build/venv-plain/bin/python" -m pip install --quiet . -C build-dir="$build/pip-build"
uses "$build/venv-plain/bin/python"

abi3=
for candidate in "${PYTHON_ABI3:-}" python3.1{2..9} "$HOME"/.pyenv/versions/3.1[2-9].*/bin/python; do
  [ -n "$candidate" ] || continue
  if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
    abi3=$candidate
    break
  fi
done
if [ -z "$abi3" ]; then
  echo "there is no Python of 3.12 or later: the abi3 wheel is not tested" >&2
  exit 0
fi
tools=$(PYTHON=$abi3 scripts/python-env.sh python/requirements-wheel.txt)
timeout 900 scripts/wheel.sh "$tools" "$build/wheels-abi3" "$build/wheel-build-abi3"
wheel=$(ls "$build"/wheels-abi3/calotype-*-cp312-abi3-manylinux*.whl)
[ "$(stat -c %s "$wheel")" -lt 15000000 ] || { echo "$wheel is larger than 15 MB" >&2; exit 1; }
rm -rf "$build/venv-abi3"
"$abi3" -m venv "$build/venv-abi3"
"$build/venv-abi3/bin/python" -m pip install --quiet "$wheel"
uses "$build/venv-abi3/bin/python"

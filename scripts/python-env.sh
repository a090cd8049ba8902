#!/bin/sh
# scripts/python-env.sh [REQUIREMENTS]: prints the path of a Python interpreter that has the
# packages of REQUIREMENTS (tests/python/requirements.txt). Its virtual environment is made once,
# outside the tree, and used again as long as the file and the version of Python stay the same.
set -eu

tree=$(cd "$(dirname "$0")/.." && pwd)
requirements=${1:-$tree/tests/python/requirements.txt}
python=${PYTHON:-python3}
cache=${CALOTYPE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/calotype}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "$python is older than Python 3.11; set PYTHON to a newer one" >&2
  exit 1
}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
hash=$({ echo "$version"; cat "$requirements"; } | sha256sum | cut -c 1-16)
environment=$cache/venv-$hash

if [ ! -e "$environment/complete" ]; then
  mkdir -p "$cache"
  # One maker at a time; whoever waited finds the other's work.
  exec 9>"$cache/venv-$hash.lock"
  flock 9
  if [ ! -e "$environment/complete" ]; then
    echo "making the Python environment $environment" >&2
    # A virtual environment cannot be renamed, so `complete` says that it was made to the end.
    rm -rf "$environment"
    "$python" -m venv "$environment" >&2
    # The list is complete: what a package only wants for GPUs is left out of it.
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
      --no-compile --no-deps --requirement "$requirements" >&2
    touch "$environment/complete"
  fi
  exec 9>&-
fi
echo "$environment/bin/python"

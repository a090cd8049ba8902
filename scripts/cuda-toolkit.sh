#!/bin/sh
# scripts/cuda-toolkit.sh [--fetch]: prints the path of an nvcc of CUDA 12.3 or later: $CUDACXX, that
# of the PATH, or of /usr/local/cuda. --fetch: else one from PyPI, in an environment outside the tree
# that is made once.
set -eu

tree=$(cd "$(dirname "$0")/.." && pwd)

# recent NVCC: is it there, and of 12.3 or later?
recent() {
  "$1" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1 \2/p' | {
    read -r major minor && [ $((100 * major + minor)) -ge 1203 ]
  }
}

for nvcc in "${CUDACXX:-}" "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
  if [ -n "$nvcc" ] && recent "$nvcc"; then
    command -v "$nvcc"
    exit 0
  fi
done
if [ "${1:-}" != --fetch ]; then
  echo "there is no nvcc of CUDA 12.3 or later: install NVIDIA's CUDA toolkit (developer.nvidia.com/cuda-downloads), or set CUDACXX to the path of an nvcc" >&2
  exit 1
fi
python=$("$tree/scripts/python-env.sh" "$tree/scripts/requirements-cuda.txt")
toolkit=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia/cu13
nvcc=$toolkit/bin/nvcc
# What nvcc and CMake look for, and the wheels leave out.
[ -e "$toolkit/lib64" ] || ln -sfn lib "$toolkit/lib64"
[ -e "$toolkit/lib/libcudart.so" ] || ln -sfn libcudart.so.13 "$toolkit/lib/libcudart.so"
recent "$nvcc" || { echo "$nvcc does not run on this machine" >&2; exit 1; }
echo "$nvcc"

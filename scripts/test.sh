#!/usr/bin/env bash
# test.sh [STEP ...]: the tests, all of them or the steps named: format unit python bindings cuda neon sanitize
# threads fuzz install lint.
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=$(nproc)
launcher=
command -v ccache >/dev/null && launcher=-DCMAKE_CXX_COMPILER_LAUNCHER=ccache
# What one clone has compiled serves the others of this machine.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

# configure FOLDER FLAG ...
configure() {
  local folder=$1
  shift
  cmake -S . -B "$folder" -G Ninja $launcher "$@" >"$folder.log" 2>&1 || { cat "$folder.log"; return 1; }
}

step_format() {
  git ls-files '*.cc' '*.h' '*.c' '*.cu' '*.cuh' | xargs clang-format --dry-run -Werror
}

step_unit() {
  configure build-test -DCMAKE_BUILD_TYPE=Release
  cmake --build build-test
  ctest --test-dir build-test --output-on-failure -j "$jobs"
}

step_python() {
  local python
  python=$(scripts/python-env.sh)
  [ -x build-test/calotype ] || { configure build-test -DCMAKE_BUILD_TYPE=Release && cmake --build build-test; }
  "$python" -m pytest -q -n "$jobs" -m "not timing" tests/python tests/cli --calotype build-test/calotype
  "$python" -m pytest -q -m timing tests/cli --calotype build-test/calotype
}

# With -O2 the sanitizers' checks in unrolled kernels take a minute a file to compile, with -O1 five seconds.
checked=(-DCMAKE_BUILD_TYPE=RelWithDebInfo "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1 -DNDEBUG")

step_sanitize() {
  configure build-asan "${checked[@]}" -DCALOTYPE_SANITIZE=address,undefined
  cmake --build build-asan
  # An allocation that is too large must fail as it does without the sanitizer.
  local -x ASAN_OPTIONS=allocator_may_return_null=1
  ctest --test-dir build-asan --output-on-failure -j "$jobs"
  "$(scripts/python-env.sh)" -m pytest -q -n "$jobs" -m "not timing and not without_sanitizers" tests/cli \
    --calotype build-asan/calotype
}

step_threads() {
  configure build-tsan "${checked[@]}" -DCALOTYPE_SANITIZE=thread
  cmake --build build-tsan --target cpu_thread_pool_test cpu_ops_test model_test
  build-tsan/bin/cpu_thread_pool_test --gtest_brief=1
  build-tsan/bin/cpu_ops_test --gtest_brief=1
  build-tsan/bin/model_test --gtest_brief=1 --gtest_filter='*Concurren*:*Cancel*'
}

step_fuzz() {
  configure build-fuzz -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCALOTYPE_TESTS=OFF -DCALOTYPE_PROGRAM=OFF \
    -DCALOTYPE_FUZZ=ON -DCALOTYPE_FUZZ_SECONDS="${FUZZ_SECONDS:-30}" \
    -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++
  cmake --build build-fuzz
  ctest --test-dir build-fuzz --output-on-failure -j "$jobs"
}

step_bindings() {
  [ -x build-test/calotype ] || { configure build-test -DCMAKE_BUILD_TYPE=Release && cmake --build build-test; }
  scripts/test-python.sh build-test
  scripts/test-pip.sh build-test
  scripts/test-go.sh build-test
}

# The plugin for GPUs, compiled for sm_90a and as PTX and linked, and all of its host's code, without a GPU; with
# a compiler from PyPI where the machine has none.
step_cuda() {
  local nvcc test tests=(cuda_plan_test cuda_loader_test cuda_plugin_test cuda_session_test cuda_fake_gpu_test)
  nvcc=$(scripts/cuda-toolkit.sh --fetch)
  configure build-cuda-test -DCMAKE_BUILD_TYPE=Release -DCALOTYPE_PROGRAM=OFF -DCALOTYPE_CUDA=ON \
    -DCALOTYPE_CUDA_PORTABLE=80-virtual -DCMAKE_CUDA_COMPILER="$nvcc" ${launcher/CXX/CUDA}
  cmake --build build-cuda-test --target calotype_cuda_plugin calotype_cuda_bench cuda_gpu_test "${tests[@]}"
  for test in "${tests[@]}"; do
    build-cuda-test/bin/"$test" --gtest_brief=1
  done
}

step_neon() {
  scripts/test-neon.sh
}

step_install() {
  scripts/test-install.sh
}

step_lint() {
  [ -f build-test/compile_commands.json ] || configure build-test -DCMAKE_BUILD_TYPE=Release
  git ls-files 'src/*.cc' | grep -v '^src/cuda/' |
    xargs -P "$jobs" -n 4 clang-tidy --quiet -p build-test --warnings-as-errors='*' --extra-arg=-Wno-unknown-warning-option
}

steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(format unit python bindings cuda neon sanitize threads fuzz install lint)
for step in "${steps[@]}"; do
  echo "== $step"
  start=$SECONDS
  "step_$step"
  echo "== $step: $((SECONDS - start)) s"
done
echo "${#steps[@]} passed, 0 failed"

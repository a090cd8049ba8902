#!/bin/sh
# Tests the CPU backend's NEON code on any machine: builds it for arm64 with Debian's cross compiler
# and runs it under QEMU. Needs g++-aarch64-linux-gnu, qemu-user, googletest (its sources) and
# Highway's headers.
#   scripts/test-neon.sh [gtest arguments]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build-neon
launcher=$(command -v ccache || true)
gtest=/usr/src/googletest/googletest
mkdir -p "$build/hwy"
ln -sfn /usr/include/hwy "$build/hwy/hwy"  # Highway's headers, and no other of this machine

cat > "$build/Makefile" <<EOF
CXX = $launcher aarch64-linux-gnu-g++
CXXFLAGS = -std=c++20 -O2 -march=armv8-a+crypto -Wall -Wextra -Wno-psabi -DHWY_COMPILE_ONLY_STATIC -DGTEST_HAS_POSIX_RE=1 \
  -I../src -I../include -I../tests -Ihwy -I$gtest/include -I$gtest
SOURCES = $(cd "$root" && echo src/core/dtype.cc src/core/tensor.cc src/ops/graph.cc src/ops/row_memory.cc src/ops/stats.cc src/reference/*.cc \
  src/cpu/*.cc tests/support/random.cc tests/support/compare.cc tests/cpu/ops_test.cc tests/cpu/amx_test.cc tests/cpu/on_cpu.cc tests/cpu/layer.cc)
OBJECTS = \$(SOURCES:.cc=.o) gtest-all.o gtest_main.o
test: \$(OBJECTS)
	\$(CXX) -static -o \$@ \$^ -lpthread
VPATH = ..
%.o: %.cc
	@mkdir -p \$(dir \$@)
	\$(CXX) \$(CXXFLAGS) -MMD -c -o \$@ \$<
gtest-all.o gtest_main.o: %.o: $gtest/src/%.cc
	\$(CXX) \$(CXXFLAGS) -c -o \$@ \$<
-include \$(SOURCES:.cc=.d)
EOF
make -s -C "$build" -j "$(nproc)" test
exec qemu-aarch64 "$build/test" "$@"

#!/usr/bin/env bash
# Installs static and shared builds into a temporary prefix and uses them as a stranger would: CMake, pkg-config, the program.
# Then builds the library without codecs and without the embedded model.
set -euo pipefail
cd "$(dirname "$0")/.."
source=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
launcher=
command -v ccache >/dev/null && launcher=-DCMAKE_CXX_COMPILER_LAUNCHER=ccache
photo=models/photos/astronaut.png

for shared in OFF ON; do
  prefix=$work/prefix-$shared
  cmake -S . -B "$work/build-$shared" -G Ninja $launcher -DCMAKE_BUILD_TYPE=Release -DCALOTYPE_TESTS=OFF \
    -DBUILD_SHARED_LIBS=$shared -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_RPATH='$ORIGIN/../lib' \
    -DCMAKE_INSTALL_LIBDIR=lib >"$work/log" || { cat "$work/log"; exit 1; }
  cmake --build "$work/build-$shared"
  cmake --install "$work/build-$shared" >"$work/log" || { cat "$work/log"; exit 1; }
  mv "$work/build-$shared" "$work/gone"  # nothing may lean on the build folder

  "$prefix/bin/calotype" roundtrip --quiet "$photo" -o "$work/program.png"
  [ -s "$prefix/share/man/man1/calotype.1" ]
  [ -s "$prefix/share/bash-completion/completions/calotype" ]

  cmake -S examples/cpp -B "$work/example-$shared" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_PREFIX_PATH="$prefix" >"$work/log" || { cat "$work/log"; exit 1; }
  cmake --build "$work/example-$shared"
  "$work/example-$shared/roundtrip" "$photo" "$work/example.png"
  cmp "$work/program.png" "$work/example.png"

  export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
  static=
  [ $shared = ON ] || static=--static
  g++ -std=c++20 examples/cpp/roundtrip.cc $(pkg-config $static --cflags --libs calotype) \
    -Wl,-rpath,"$prefix/lib" -o "$work/pkgconfig-$shared"
  "$work/pkgconfig-$shared" "$photo" "$work/pkgconfig.png"
  cmp "$work/program.png" "$work/pkgconfig.png"
  rm -rf "$work/gone"
done

cmake -S . -B "$work/small" -G Ninja $launcher -DCMAKE_BUILD_TYPE=Release -DCALOTYPE_TESTS=OFF -DCALOTYPE_CODECS=OFF \
  -DCALOTYPE_EMBEDDED_MODEL=OFF -DCMAKE_INSTALL_PREFIX="$work/prefix-small" >"$work/log" || { cat "$work/log"; exit 1; }
cmake --build "$work/small"
cmake --install "$work/small" >"$work/log"
cmake -S "$source/examples/cpp" -B "$work/example-small" -G Ninja -DCMAKE_PREFIX_PATH="$work/prefix-small" >"$work/log"
cmake --build "$work/example-small"
if "$work/example-small/roundtrip" "$photo" "$work/none.png" 2>"$work/message"; then
  echo "a library without an embedded model loaded one" >&2
  exit 1
fi
grep -q 'embedded' "$work/message"
echo "static, shared and reduced libraries install and work"

#!/usr/bin/env bash
# test-go.sh BUILD: the Go module against the shared library of a build with tests, which it makes if
# need be: vet, the tests with the race detector, with the address sanitizer, and the bar on memory
# without either; the example on an Ollama store.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "$1")
cmake --build "$build" --target calotype_shared calotype_program

export PKG_CONFIG_PATH=$build/shared CALOTYPE_PROGRAM=$build/calotype
export GOFLAGS=-mod=mod GOPROXY=off GOCACHE=${GOCACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/go-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

unformatted=$(gofmt -l go examples/go)
[ -z "$unformatted" ] || { echo "gofmt would change: $unformatted" >&2; exit 1; }
(cd go && go vet ./... && go test -count=1 -race ./... && go test -count=1 -run Flat .)
# What crosses to C: handles, callbacks, strings, buffers. Go's own memory is not the sanitizer's.
(cd go && go test -count=1 -asan \
  -run 'Info|RoundTrip|Agree|Seed|Progress|Errors|Closed|Goroutines|Collector|Ollama' ./...)

(cd examples/go && go vet ./... && go build -o "$work/decode" ./decode)
"$CALOTYPE_PROGRAM" encode --quiet models/photos/astronaut.png --resize 64x64 -o "$work/photo.safetensors"
export OLLAMA_MODELS=$work/store
"$CALOTYPE_PROGRAM" convert --quiet --ollama mini
"$work/decode" "$work/photo.safetensors" "$work/embedded.png" 2>"$work/listed"
grep -q 'in the store: .*mini' "$work/listed"
"$work/decode" "$work/photo.safetensors" "$work/ollama.png" mini
cmp "$work/embedded.png" "$work/ollama.png"
echo "the Go module and its example work"

#!/usr/bin/env bash
# fuzz-one.sh PROGRAM SECONDS: fuzzes from the committed corpus; what it finds stays out of the tree.
set -euo pipefail
program=$1
name=$(basename "$program")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
seeds=fuzz/corpus/${name#fuzz_}
mkdir "$work/corpus"
[ ! -d "$seeds" ] || cp "$seeds"/* "$work/corpus"
if ! "$program" "$work/corpus" -max_total_time="$2" -rss_limit_mb=2048 -timeout=10 -max_len=65536 \
    -artifact_prefix="$work/" >"$work/log" 2>&1; then
  tail -n 60 "$work/log"
  for found in "$work"/crash-* "$work"/oom-* "$work"/timeout-*; do
    [ ! -f "$found" ] || { echo "$name fails on these bytes (base64):"; base64 "$found"; }
  done
  exit 1
fi
echo "$name: $(grep -oE 'Done [0-9]+ runs' "$work/log")"

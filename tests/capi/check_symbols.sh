#!/usr/bin/env bash
# check_symbols.sh LIBRARY LIST: the C symbols that LIBRARY exports are those of LIST; every other
# one is C++ of the namespace calotype.
set -euo pipefail
export LC_ALL=C

exported=$(nm -D --defined-only "$1" | awk '$2 != "A" {print $3}' | sed 's/@.*//')
c=$(grep -v '^_Z' <<<"$exported" | sort)
if ! diff <(sort "$2") - <<<"$c"; then
  echo "the C symbols of $1 (>) are not those of $2 (<)" >&2
  exit 1
fi
foreign=$(grep '^_Z' <<<"$exported" | c++filt |
  grep -vE '^((typeinfo|typeinfo name|vtable) for )?calotype::' || true)
if [ -n "$foreign" ]; then
  printf 'exported, but not of the namespace calotype:\n%s\n' "$foreign" >&2
  exit 1
fi
internal=$(grep '^_Z' <<<"$exported" | c++filt | grep -E 'calotype::(capi|cli)::' || true)
if [ -n "$internal" ]; then
  printf 'exported, but not public:\n%s\n' "$internal" >&2
  exit 1
fi

#!/bin/sh
# Fails if an object built for one instruction set exports an inline function or variable: the linker keeps one copy of
# a weak symbol for the whole program, and a copy that uses AVX2 would then run on machines without it.
#
#   tools/check_isa_symbols.sh OBJECT...      (the objects of src/kernels/avx2 and its like)
set -eu
if [ $# -eq 0 ]; then
  echo "usage: $0 OBJECT..." >&2
  exit 2
fi
bad=0
for object in "$@"; do
  # W, w: weak functions; V, v: weak variables; u: unique across the program.
  found=$(nm -C "$object" | awk '$2 ~ /^[WwVvu]$/ || $1 ~ /^[wv]$/' || true)
  if [ -n "$found" ]; then
    echo "$object exports symbols that other objects may be linked to:"
    echo "$found"
    bad=1
  fi
done
[ $bad -eq 0 ] && echo "$# objects, no weak symbol"
exit $bad

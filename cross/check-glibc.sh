#!/usr/bin/env bash
# The newest glibc that a binary asks for: at most 2.34, as the package says (Debian 12, Raspberry Pi OS bookworm have 2.36).
set -euo pipefail
floor=2.34
for binary in "$@"; do
    newest=$(objdump -T "$binary" 2>/dev/null || aarch64-linux-gnu-objdump -T "$binary")
    newest=$(grep -oE 'GLIBC_[0-9.]+' <<<"$newest" | sed 's/GLIBC_//' | sort -uV | tail -1)
    [ -n "$newest" ] || { echo "$binary: no glibc found in it" >&2; exit 1; }
    if [ "$(printf '%s\n' "$newest" $floor | sort -V | tail -1)" != $floor ]; then
        echo "$binary needs glibc $newest; the package promises $floor" >&2
        exit 1
    fi
    echo "$binary: glibc $newest or later"
done

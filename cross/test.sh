#!/usr/bin/env bash
# Tries the binary of cross/build.sh on this machine, through qemu-user: a short demo with its kill and its outage, and
# the test with kill -9. Needs root for the namespace in which that works.
#
#   cross/test.sh [BINARY]
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "${1:-target/cross/aarch64-unknown-linux-gnu/dist/fogbeat}")
cross/qemu.sh --works || {
    echo "SKIPPED: binaries for arm64 are not run here: that takes root, and Linux 6.7 or qemu-user in binfmt_misc"
    exit 0
}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cross/qemu.sh "$binary" --version
echo "-- demo"
timeout 600 cross/qemu.sh "$binary" demo --straps 4 --seconds 20 --keep "$place/kept" 2>&1 | tee "$place/log"
grep -q 'The promise held' "$place/log" || { echo "the demo does not say that its promise held"; exit 1; }
echo "-- kill -9"
# The test itself is this machine's; only what it kills is not.
cargo test --locked --test durability --no-run
FOGBEAT_BIN=$binary FOGBEAT_KILLS=${FOGBEAT_KILLS:-3} timeout 900 cross/qemu.sh cargo test --locked --test durability -- kill

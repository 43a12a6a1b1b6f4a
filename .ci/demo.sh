#!/usr/bin/env bash
# A short demo run, checked by its own verdict: it must end well and say that nothing was lost.
set -euo pipefail
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
log="$place/log"
timeout 300 cargo run --locked --quiet -- demo --seconds 20 --keep "$place/kept" 2>&1 | tee "$log"
grep -q 'The promise held' "$log" || { echo "the demo does not say that its promise held"; exit 1; }

#!/usr/bin/env bash
# Every test, also behind one that fails; at the end those that did, and the sum.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --locked --no-fail-fast 2>&1 | tee "$log" || true
grep -E "^test .* FAILED$|^error: test failed|^error: could not compile" "$log" || true
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
     END { printf "\nTESTS: %d passed, %d failed, %d ignored\n", passed, failed, ignored; exit failed > 0 || passed == 0 }' "$log"
! grep -qE "^error(\[|:)" "$log"

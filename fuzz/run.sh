#!/usr/bin/env bash
# Feeds each decoder with bytes that somebody else might send: fuzz/run.sh [seconds per target, 60] [target ...]
#
# Needs a nightly toolchain, and cargo-fuzz (cargo install cargo-fuzz --locked), which it installs if it is missing. Starts
# from fuzz/seeds and from what earlier runs found (fuzz/corpus, not in the repository). A finding is a panic, an input
# that takes 5 s, or 512 MB of memory: the script ends with an error and names the file. Once mended, the file goes into
# fuzz/seeds/<target>, which the ordinary tests run through.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
all=(heart_rate advertisement payload stored_value session)
targets=("${@:-${all[@]}}")

if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "SKIPPED: fuzzing needs a nightly toolchain (rustup toolchain install nightly)"
    exit 0
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install cargo-fuzz --locked
fi
failed=0
for target in "${targets[@]}"; do
    corpus=fuzz/corpus/$target
    log=$(mktemp)
    mkdir -p "$corpus"
    # The code under test is safe Rust: what is looked for are panics, time and memory, for which no sanitizer is needed.
    if cargo +nightly fuzz run --sanitizer none "$target" "$corpus" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=5 -rss_limit_mb=512 -max_len=4096 -print_final_stats=1 >"$log" 2>&1; then
        executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        coverage=$(grep -o 'cov: [0-9]*' "$log" | tail -1 || true)
        echo "FUZZ $target: $executions executions in $seconds s, ${coverage:-no coverage}, no finding"
    else
        failed=1
        echo "FUZZ $target: a finding, or it could not be built; the end of the log:"
        tail -40 "$log"
    fi
    rm -f "$log"
done
exit $failed

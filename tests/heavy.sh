#!/usr/bin/env bash
# The figures the project promises, on a release build: tests/heavy.sh kill | power-cut | outage | soak | days |
# hostile | bluetooth | iot | footprint | peers | bench | all
#
#   kill       100 kills under 5,000 readings/s
#   power-cut  30 power cuts (root, loop devices)
#   outage     3 million readings against an uplink that refuses, then the backlog
#   soak       a day of 40 straps in five minutes
#   days [N] [first seed]   N days (20) of random faults, and the verdict on each as a table
#   FOGBEAT_ENCRYPT=1 before any of these: with an encrypted journal, and keys that change under way
#   hostile    10,000 half-open connections, 300,000 topics, and the other attacks of a hostile network
#   bluetooth  every scenario of the virtual machine with simulated straps, an hour; or those named after it
#   iot [test] 20 kills of an MQTT broker under 10,000 batches (kills::); a week's backlog of 40 straps by AWS IoT's
#              quotas, and what hearts cost (backlog::)
#   footprint  what is shipped (profile dist): size, memory, processor, time until ready; further arguments go to the bench
#   peers      beside Mosquitto's bridge, thingsboard-gateway and Node-RED, 45 minutes; arguments: benches/peers/run.sh
#   bench      ingest with Mosquitto beside it; further arguments go to the bench
set -euo pipefail
cd "$(dirname "$0")/.."

durability() { # test name, environment
    local name=$1
    shift
    cargo build --release --locked
    env FOGBEAT_BIN="$PWD/target/release/fogbeat" "$@" \
        cargo test --locked --test durability "$name" -- --nocapture
}

run() {
    case $1 in
        kill) durability kill:: FOGBEAT_KILLS="${FOGBEAT_KILLS:-100}" ;;
        power-cut) durability power_cut:: FOGBEAT_CUTS="${FOGBEAT_CUTS:-30}" ;;
        outage) durability outage:: FOGBEAT_OUTAGE="${FOGBEAT_OUTAGE:-3000000}" ;;
        soak) durability soak:: FOGBEAT_SOAK_SECONDS="${FOGBEAT_SOAK_SECONDS:-300}" ;;
        hostile)
            cargo build --release --locked
            env FOGBEAT_BIN="$PWD/target/release/fogbeat" FOGBEAT_HOSTILE="${FOGBEAT_HOSTILE:-10}" \
                cargo test --locked --test hostile -- --nocapture --test-threads=1
            ;;
        days)
            # The tests' own build of the binary, whose clock can be stepped from outside.
            env FOGBEAT_DAYS="${2:-20}" FOGBEAT_SEED="${3:-1}" \
                cargo test --release --locked --test durability days::days -- --nocapture
            ;;
        bluetooth)
            shift
            cargo build --release --locked
            FOGBEAT_BIN="$PWD/target/release/fogbeat" tests/bluetooth/run "$@"
            ;;
        iot)
            [ $# -gt 1 ] || set -- iot kills:: backlog::
            cargo build --release --locked
            env FOGBEAT_BIN="$PWD/target/release/fogbeat" FOGBEAT_IOT_BATCHES="${FOGBEAT_IOT_BATCHES:-10000}" \
                FOGBEAT_IOT_KILLS="${FOGBEAT_IOT_KILLS:-20}" FOGBEAT_BACKLOG="${FOGBEAT_BACKLOG:-24000000}" \
                cargo test --locked --test iot -- "${@:2}" --nocapture --test-threads=1
            ;;
        footprint)
            shift
            # The simulated BlueZ; where dbus-daemon is not there either, that part says SKIPPED.
            .ci/tools.sh
            .venv/bin/python -c 'import dbus_fast' 2>/dev/null ||
                .venv/bin/pip install --quiet --disable-pip-version-check 'dbus-fast>=5,<6'
            cargo build --profile dist --locked
            package=target/deb/footprint.deb
            systemd/debian/build.sh --output "$package"
            env FOGBEAT_BIN="$PWD/target/dist/fogbeat" \
                cargo bench --profile dev --locked --bench footprint -- --package "$PWD/$package" "$@"
            ;;
        peers) shift; benches/peers/run.sh "$@" ;;
        bench) shift; cargo bench --locked --bench ingest -- "$@" ;;
        all) for part in kill power-cut outage soak days hostile bluetooth iot footprint peers bench; do run "$part"; done ;;
        *) sed -n '2,18s/^# \{0,1\}//p' "$0" >&2 && exit 64 ;;
    esac
}

run "${1:-help}" "${@:2}"

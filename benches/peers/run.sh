#!/usr/bin/env bash
# fogbeat beside other gateways under one load and the same faults, as one table. Root (a disk of its own is made for each,
# and its power cut), about half an hour. Builds fogbeat, installs what it compares with below target/peers: Mosquitto
# from Debian, thingsboard-gateway from PyPI, Node-RED from npm.
#
#   benches/peers/run.sh                          all, 40 devices at 1 Hz and at 100 Hz
#   benches/peers/run.sh --peers fogbeat,mosquitto --rates 1 --phase 8
#
# --phase S: length of each of the six phases (20). --json FILE: the figures once more; what is in it already is not measured
# again, so that a long run can be cut into pieces. FOGBEAT_BIN: a binary that is there.
set -euo pipefail
cd "$(dirname "$0")/../.."
place=${FOGBEAT_PEERS:-$PWD/target/peers}
mkdir -p "$place"
need=()
command -v mosquitto >/dev/null || need+=(mosquitto)
command -v mkfs.ext4 >/dev/null || need+=(e2fsprogs)
command -v npm >/dev/null || need+=(npm)
python3 -c 'import venv, ensurepip' 2>/dev/null || need+=(python3-venv)
if [ ${#need[@]} -gt 0 ]; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${need[@]}"
fi
[ -x "$place/venv/bin/thingsboard-gateway" ] || {
    python3 -m venv "$place/venv"
    "$place/venv/bin/pip" install --quiet --disable-pip-version-check 'thingsboard-gateway>=3.8,<4'
}
[ -x "$place/nodered/node_modules/.bin/node-red" ] || {
    mkdir -p "$place/nodered"
    npm install --silent --no-audit --no-fund --omit=dev --prefix "$place/nodered" 'node-red@^4'
}
if [ -z "${FOGBEAT_BIN:-}" ]; then
    cargo build --release --locked
    FOGBEAT_BIN=$PWD/target/release/fogbeat
fi
export FOGBEAT_BIN
exec python3 -B benches/peers/bench.py --place "$place" "$@"

#!/usr/bin/env bash
# Installs what the tests drive beside fogbeat: Mosquitto and its clients, strace and loop devices from Debian; moto,
# boto3, DuckDB, cfn-lint and sqlglot from PyPI into .venv. Does nothing where everything is there.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo -n)

need=()
command -v mosquitto >/dev/null || need+=(mosquitto)
command -v mosquitto_pub >/dev/null || need+=(mosquitto-clients)
command -v strace >/dev/null || need+=(strace)
command -v mkfs.ext4 >/dev/null || need+=(e2fsprogs)
command -v losetup >/dev/null || need+=(mount util-linux)
command -v openssl >/dev/null || need+=(openssl)
python3 -c 'import venv, ensurepip' 2>/dev/null || need+=(python3-venv)
command -v debootstrap >/dev/null || need+=(debootstrap)
command -v lintian >/dev/null || need+=(lintian)
if [ ${#need[@]} -gt 0 ]; then
    "${sudo[@]}" apt-get update -q
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${need[@]}"
fi

# Debian starts the broker it installs; the tests start their own.
if command -v systemctl >/dev/null && systemctl is-active --quiet mosquitto 2>/dev/null; then
    "${sudo[@]}" systemctl stop mosquitto
fi

if ! .venv/bin/python -c 'import moto, boto3, duckdb, flask, cfnlint, sqlglot' 2>/dev/null; then
    python3 -m venv .venv
    # Linters change their minds from one version to the next: these are pinned.
    .venv/bin/pip install --quiet --disable-pip-version-check 'moto[server]>=5,<6' 'boto3>=1.40,<2' 'duckdb>=1.4,<2' \
        'cfn-lint==1.58.0' 'sqlglot==30.30.0'
fi
.venv/bin/python -c 'import moto, duckdb; print("moto", moto.__version__, "DuckDB", duckdb.__version__)'
mosquitto -h | sed -n 1p || true
command -v cargo-deb >/dev/null || CARGO_TARGET_DIR=target/tools cargo install --locked --quiet --debug --no-default-features cargo-deb

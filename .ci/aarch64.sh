#!/usr/bin/env bash
# The build for 64-bit ARM without Docker, its package, and both tried through qemu-user. Some ten minutes on two cores, and
# 145 MB from Debian the first time.
set -euo pipefail
cd "$(dirname "$0")/.."
triple=aarch64-unknown-linux-gnu
binary=target/cross/$triple/dist/fogbeat
cross/build.sh
cross/test.sh "$binary"
package=target/deb-arm64/fogbeat_arm64.deb
systemd/debian/build.sh --target $triple --binary "$binary" --output "$package"
lintian --allow-root --fail-on warning "$package"
size=$(stat -c %s "$package")
[ "$size" -le 4000000 ] || { echo "the package has $size bytes, more than 4 MB"; exit 1; }
tests/systemd/arm64.sh "$package"

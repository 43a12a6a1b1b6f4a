#!/usr/bin/env bash
# Builds for 64-bit ARM (Raspberry Pi 3 and later, 64-bit system) as `cross` would, without Docker and without rustup: with
# Debian's Rust (cross/rust.sh) and Debian's cross compiler. On a Debian 12 machine with cargo; the rest is fetched from
# Debian. The result, target/cross/aarch64-unknown-linux-gnu/dist/fogbeat, is named at the end.
#
#   cross/build.sh [MORE ARGUMENTS FOR CARGO BUILD]
set -euo pipefail
cd "$(dirname "$0")/.."
triple=aarch64-unknown-linux-gnu
rust=${FOGBEAT_CROSS_RUST:-$PWD/target/cross/rust}
need=()
command -v aarch64-linux-gnu-gcc >/dev/null || need+=(gcc-aarch64-linux-gnu)
[ -e /usr/aarch64-linux-gnu/lib/libc.so.6 ] || need+=(libc6-dev-arm64-cross)
command -v qemu-aarch64-static >/dev/null || need+=(qemu-user-static)
if [ ${#need[@]} -gt 0 ]; then
    sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo -n)
    "${sudo[@]}" apt-get update -q
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${need[@]}"
fi
cross/rust.sh "$rust"
cat "$rust/version"
# A target directory of its own: two compilers in one would build everything anew at each turn.
CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc \
    AR_aarch64_unknown_linux_gnu=aarch64-linux-gnu-ar \
    RUSTC=$rust/rustc \
    cargo build --profile dist --locked --bin fogbeat --target $triple --target-dir target/cross "$@"
binary=target/cross/$triple/dist/fogbeat
cross/check-glibc.sh "$binary"
ls -l "$binary"

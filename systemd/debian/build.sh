#!/usr/bin/env bash
# Makes a Debian package from a binary that is there already, and prints its path.
#
#   systemd/debian/build.sh                                                       target/dist/fogbeat
#   systemd/debian/build.sh --binary FILE                                         another one
#   systemd/debian/build.sh --target aarch64-unknown-linux-gnu --binary FILE      for arm64
#
# More arguments go to `cargo deb` (--deb-version, --output). Needs cargo-deb: cargo install --locked cargo-deb. The pages
# and completions come from the binary itself; one of another architecture is asked through qemu-user.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=target/dist/fogbeat target=() more=() runner=()
while [ $# -gt 0 ]; do
    case $1 in
    --binary) binary=$2 && shift 2 ;;
    --target) target=(--target "$2") && shift 2 ;;
    *) more+=("$1") && shift ;;
    esac
done
[ -x "$binary" ] || { echo "no $binary: build it first" >&2; exit 1; }
strip=strip
case ${target[1]:-} in
aarch64-*)
    strip=aarch64-linux-gnu-strip
    [ "$(uname -m)" = aarch64 ] || runner=(qemu-aarch64-static -L /usr/aarch64-linux-gnu)
    ;;
esac
rm -rf target/deb
mkdir -p target/deb/completions
"$strip" -o target/deb/fogbeat "$binary"
ask() { "${runner[@]}" target/deb/fogbeat "$@"; }
gzip -9nc systemd/debian/changelog >target/deb/changelog.gz
ask man target/deb/man
ask completions bash >target/deb/completions/fogbeat
ask completions zsh >target/deb/completions/_fogbeat
ask completions fish >target/deb/completions/fogbeat.fish
cargo deb --quiet --no-build --no-strip "${target[@]}" "${more[@]}"

#!/usr/bin/env bash
# Runs a command where binaries for arm64 run as if they were this machine's, also those that a program starts itself:
# through qemu-user, registered in a user namespace of its own and nowhere else (Linux 6.7 or later, root). Where the
# machine runs them already, only in a mount namespace of its own.
#
#   cross/qemu.sh target/cross/aarch64-unknown-linux-gnu/dist/fogbeat --version
#   cross/qemu.sh --works        whether that can be done here
set -euo pipefail
if [ "${1:-}" = --works ]; then
    exec "$0" /usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1 --version >/dev/null 2>&1
fi
if [ "$(uname -m)" = aarch64 ] || grep -qs '^enabled' /proc/sys/fs/binfmt_misc/qemu-aarch64; then
    export QEMU_LD_PREFIX=${QEMU_LD_PREFIX-/usr/aarch64-linux-gnu}
    exec unshare --mount "$@"
fi
if [ "${1:-}" != --inside ]; then
    # The same users inside as outside; said from outside, as only there somebody may.
    mapped=$(mktemp -u)
    mkfifo "$mapped"
    trap 'rm -f "$mapped"' EXIT
    unshare --user --mount bash "$0" --inside "$mapped" "$@" <&0 &
    inside=$!
    until [ "$(readlink /proc/$inside/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.01; done
    echo "0 0 65536" >/proc/$inside/uid_map
    echo "0 0 65536" >/proc/$inside/gid_map
    echo >"$mapped"
    trap 'kill -TERM $inside 2>/dev/null' TERM INT
    wait $inside
    exit
fi
read -r _ <"$2"
shift
shift
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
# ELF, 64 bits, little endian, EM_AARCH64. F: the interpreter is opened now, so that it works in a chroot as well.
printf '%s' ':aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:F' \
    >/proc/sys/fs/binfmt_misc/register
export QEMU_LD_PREFIX=${QEMU_LD_PREFIX-/usr/aarch64-linux-gnu}
exec "$@"

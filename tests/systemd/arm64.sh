#!/usr/bin/env bash
# The package for arm64 in a Debian for arm64, through qemu-user: install, a look, upgrade, remove, purge. Without a systemd
# (qemu-user has no process 1 of its own): what systemd does with it is architecture's business no more, see package.sh.
# Needs root and debootstrap; some minutes for that Debian the first time.
#
#   tests/systemd/arm64.sh PACKAGE
set -uo pipefail
cd "$(dirname "$0")/../.."
package=$(realpath "${1:?the package}")
. tests/systemd/check.sh
MACHINES=${MACHINES:-$PWD/target/tmp/machines}
root=$MACHINES/debian-arm64
export QEMU_LD_PREFIX=
can_boot || exit 0
cross/qemu.sh --works || { echo "SKIPPED: the package for arm64 is not installed: its binaries do not run here"; exit 0; }
in_root() {
    cross/qemu.sh sh -c 'mount --rbind /proc "$0/proc" && exec chroot "$0" env -i PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
        HOME=/root DEBIAN_FRONTEND=noninteractive "$@"' "$root" "$@" </dev/null
}
if [ ! -e "$root/.made" ]; then
    rm -rf "$root"
    mkdir -p "$root"
    {
        debootstrap --foreign --arch=arm64 --variant=minbase --include=systemd,dbus bookworm "$root" &&
            # In the namespace nobody makes devices, and debootstrap wants to: they are there already.
            for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
                [ -e "$root/dev/${device%%:*}" ] || mknod -m 666 "$root/dev/${device%%:*}" c $(cut -d: -f2,3 <<<"$device" | tr : ' ')
            done &&
            mkdir -p "$root/usr/local/sbin" &&
            printf '#!/bin/sh\nfor word; do case $word in /*) [ -e "$word" ] || : >"$word" ;; esac; done\n' >"$root/usr/local/sbin/mknod" &&
            chmod +x "$root/usr/local/sbin/mknod" &&
            in_root /debootstrap/debootstrap --second-stage &&
            rm "$root/usr/local/sbin/mknod"
    } >"$MACHINES/debootstrap-arm64.log" 2>&1 || { tail -5 "$MACHINES/debootstrap-arm64.log"; exit 1; }
    touch "$root/.made"
fi
cp "$package" "$root/root/fogbeat.deb"
version() { in_root dpkg-query -f '${Architecture} ${Status}' -W fogbeat; }
check "it installs" succeeds in_root dpkg -i /root/fogbeat.deb
check "for arm64" equals "arm64 install ok installed" version
check "the binary is for this machine" match "fogbeat 0." in_root fogbeat --version
check "with this Debian's own libraries its configuration is valid" succeeds in_root fogbeat check
check "the user is there" match fogbeat in_root getent passwd fogbeat
check "the service is enabled" equals enabled in_root systemctl is-enabled fogbeat
in_root sh -c 'echo "# kept" >>/etc/fogbeat/fogbeat.toml; mkdir -p /var/lib/fogbeat; echo kept >/var/lib/fogbeat/kept'
check "it is installed once more" succeeds in_root dpkg --force-confold -i /root/fogbeat.deb
check "the configuration is as it was edited" match "# kept" in_root tail -1 /etc/fogbeat/fogbeat.toml
check "it is removed" succeeds in_root dpkg -r fogbeat
check "the state stays" succeeds test -e "$root/var/lib/fogbeat/kept"
check "it is purged" succeeds in_root dpkg -P fogbeat
check "the state is gone" fails test -e "$root/var/lib/fogbeat"
check "and so is the configuration" fails test -e "$root/etc/fogbeat"
verdict

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
in_root() { cross/qemu.sh chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@" </dev/null; }
if [ ! -e "$root/.made" ]; then
    rm -rf "$root"
    mkdir -p "$root"
    {
        debootstrap --foreign --arch=arm64 --variant=minbase --include=systemd,dbus bookworm "$root" &&
            in_root /debootstrap/debootstrap --second-stage
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

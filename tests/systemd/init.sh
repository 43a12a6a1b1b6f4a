#!/usr/bin/env bash
# The first process of a machine (see machine.sh), before systemd: puts together what a kernel would find.
set -euo pipefail
place=$1
root=$place/root
mount --bind "$root" "$root"
# The log of one boot is enough, and must not end up in this machine's.
mount -t proc proc "$root/proc"
# Without this systemd would set this machine's sysctls.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs tmpfs "$root/dev/shm"
# What a test wants to be there at boot.
[ -e "$place/before" ] && . "$place/before"
hostname "$(basename "$place")"
cd "$root"
mkdir -p "$root/.old"
pivot_root . .old
umount -l /.old
mount --make-rshared /
exec env -i container=fogbeat PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init systemd.unified_cgroup_hierarchy=1

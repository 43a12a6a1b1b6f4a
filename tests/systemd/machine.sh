# A machine of its own: Debian below a real systemd as process 1, in namespaces (no Docker, no virtual machine), with a
# network that has nothing but a loopback. To be sourced; needs root, debootstrap and overlayfs.
#
#   machine_root            makes the Debian below $MACHINES/debian, once
#   machine_boot NAME       boots a copy of it (an overlay); NAME's files are below $MACHINES/NAME/root
#   machine_do NAME CMD..   runs CMD there
#   machine_halt NAME       ends it; `machine_boot NAME` boots the same files again
#   machine_forget NAME     ends it and removes its files
#
# The machine has this one's kernel: nothing in it may set the clock, sysctls or devices. Its cgroups are version 2
# without controllers, where this machine's are version 1: memory limits are then set and not enforced.

MACHINES=${MACHINES:-$PWD/target/tmp/machines}
# What a Debian image for a Pi brings along, and clients to try the gateway with.
MACHINE_PACKAGES="libpam-systemd polkitd mosquitto-clients ca-certificates man-db bash-completion sudo avahi-daemon avahi-utils"

machine_root() {
    [ "$(cat "$MACHINES/debian/.made" 2>/dev/null)" = "$MACHINE_PACKAGES" ] && return
    rm -rf "$MACHINES/debian"
    mkdir -p "$MACHINES/debian"
    local log=$MACHINES/debootstrap.log
    {
        debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus bookworm "$MACHINES/debian" &&
            chroot "$MACHINES/debian" env DEBIAN_FRONTEND=noninteractive \
                apt-get install -q -y --no-install-recommends $MACHINE_PACKAGES &&
            chroot "$MACHINES/debian" apt-get clean
    } </dev/null >"$log" 2>&1 || { tail -20 "$log"; echo "no Debian could be made below $MACHINES"; return 1; }
    # Nothing that would wait for devices or for a person.
    chroot "$MACHINES/debian" systemctl -q mask systemd-udevd.service systemd-udev-trigger.service \
        systemd-udevd-control.socket systemd-udevd-kernel.socket getty@tty1.service console-getty.service \
        systemd-networkd-wait-online.service systemd-firstboot.service apt-daily.timer apt-daily-upgrade.timer
    # For the tests that want it.
    chroot "$MACHINES/debian" systemctl -q disable avahi-daemon.service avahi-daemon.socket
    echo "$MACHINE_PACKAGES" >"$MACHINES/debian/.made"
}

machine_boot() {
    local name=$1 place=$MACHINES/$1
    mkdir -p "$place"/{upper,work,root}
    mountpoint -q "$place/root" ||
        mount -t overlay overlay -o "lowerdir=$MACHINES/debian,upperdir=$place/upper,workdir=$place/work" "$place/root"
    local cgroup=/sys/fs/cgroup/unified
    [ -d "$cgroup" ] || cgroup=/sys/fs/cgroup
    cgroup=$cgroup/fogbeat-$name
    mkdir -p "$cgroup"
    echo "$cgroup" >"$place/cgroup"
    rm -f "$place/pid"
    # One process to move into the cgroup first: the namespace then begins there.
    setsid bash -c 'echo $$ >"$1/cgroup.procs" && shift && exec unshare --mount --pid --fork --uts --ipc --net --cgroup \
        --propagation private --kill-child bash "$@"' boot "$cgroup" "$MACHINE_SCRIPTS/init.sh" "$place" \
        </dev/null >"$place/console" 2>&1 &
    echo $! >"$place/outer"
    local state
    for _ in $(seq 300); do
        sleep 0.2
        [ -s "$place/pid" ] || pgrep -P "$(cat "$place/outer")" >"$place/pid" || continue
        state=$(machine_do "$name" systemctl is-system-running 2>/dev/null)
        case $state in running | degraded) return ;; esac
        # A service that waits keeps the system "starting": that is what some tests are about.
        [ "$state" = starting ] && [ "${2:-}" = "--starting" ] && return
    done
    tail -20 "$place/console"
    echo "the machine $name does not come up: ${state:-no answer}"
    return 1
}

machine_do() {
    local place=$MACHINES/$1
    shift
    nsenter --target "$(cat "$place/pid")" --mount --pid --uts --ipc --net --cgroup --root --wdns=/ \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 SYSTEMD_PAGER= SYSTEMD_COLORS=0 "$@" </dev/null
}

machine_halt() {
    local place=$MACHINES/$1
    [ -s "$place/pid" ] || return 0
    local init outer
    init=$(cat "$place/pid") outer=$(cat "$place/outer")
    # SIGRTMIN+4: power off in good order. Without another process above it the namespace ends with it.
    kill -s RTMIN+4 "$init" 2>/dev/null
    for _ in $(seq 150); do
        kill -0 "$outer" 2>/dev/null || break
        sleep 0.2
    done
    kill -9 "$init" 2>/dev/null
    rm -f "$place/pid"
    rmdir "$(cat "$place/cgroup")" 2>/dev/null
    return 0
}

machine_forget() {
    local place=$MACHINES/$1
    machine_halt "$1"
    umount "$place/root" 2>/dev/null
    find "$(cat "$place/cgroup" 2>/dev/null || echo /nonexistent)" -depth -type d -exec rmdir {} + 2>/dev/null
    rm -rf "${place:?}"
}

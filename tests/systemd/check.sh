# Small tests for shell scripts. To be sourced.
#
#   check "what should hold" PREDICATE [ARGUMENTS] COMMAND..
#
# Predicates: succeeds, fails, none (no output), equals X, not_equals X, match X (a part of it), no_match X, below N,
# at_least N; `within S` before one repeats it for S seconds.

passed=0 failed=0

section() { printf -- '-- %s\n' "$*"; }

check() {
    local what=$1 got
    shift
    if got=$("$@" 2>&1); then
        passed=$((passed + 1))
        printf 'ok      %s\n' "$what"
    else
        failed=$((failed + 1))
        printf 'FAILED  %s\n%s\n' "$what" "$(sed 's/^/        /' <<<"$got" | tail -12)"
    fi
}

verdict() {
    printf '%s passed, %s failed\n' "$passed" "$failed"
    [ "$failed" = 0 ]
}

succeeds() { "$@"; }
fails() { ! "$@"; }
none() { got=$("$@" 2>&1); printf '%s' "$got"; [ -z "$got" ]; }
equals() { local want=$1; shift; got=$("$@"); printf 'wanted %s, got: %s' "$want" "$got"; [ "$got" = "$want" ]; }
not_equals() { local other=$1; shift; got=$("$@"); printf 'got: %s' "$got"; [ "$got" != "$other" ]; }
match() { local part=$1; shift; got=$("$@" 2>&1); printf 'wanted .. %s .., got: %s' "$part" "$got"; grep -qF -- "$part" <<<"$got"; }
no_match() { local part=$1; shift; got=$("$@" 2>&1); printf 'not wanted: %s, got: %s' "$part" "$got"; ! grep -qF -- "$part" <<<"$got"; }
below() { local most=$1; shift; got=$("$@"); printf 'wanted below %s, got: %s' "$most" "$got"; awk -v a="$got" -v b="$most" 'BEGIN { exit !(a != "" && a + 0 < b + 0) }'; }
at_least() { local least=$1; shift; got=$("$@"); printf 'wanted at least %s, got: %s' "$least" "$got"; awk -v a="$got" -v b="$least" 'BEGIN { exit !(a != "" && a + 0 >= b + 0) }'; }
within() {
    local end=$((SECONDS + $1)) got
    shift
    until got=$("$@" 2>&1); do
        [ $SECONDS -lt $end ] || { printf '%s' "$got"; return 1; }
        sleep 0.2
    done
}

# One value of a JSON document, by its path.
json() { python3 -c 'import functools, json, sys
value = functools.reduce(lambda at, key: at.get(key) if isinstance(at, dict) else None, sys.argv[1].split("."), json.load(sys.stdin))
print(value)' "$1"; }

# Whether a machine can be booted here at all; says so if not.
can_boot() {
    if [ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null && grep -q overlay /proc/filesystems &&
        unshare --mount --pid --fork --uts --ipc --net --cgroup true 2>/dev/null; then
        return 0
    fi
    # An overlay may be a module that is not loaded yet.
    if [ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null && modprobe overlay 2>/dev/null; then return 0; fi
    echo "SKIPPED: a systemd of its own needs root, debootstrap, overlayfs and namespaces"
    return 1
}

exposure() { in_machine systemd-analyze security fogbeat --no-pager | sed -n 's/.*exposure level for fogbeat.service: \([0-9.]*\).*/\1/p'; }
memory_limits() { echo "$(unit MemoryHigh) $(unit MemoryMax)"; }
# Directories that the gateway could write, seen from within its own view of the files.
writable() {
    local pid
    pid=$(unit MainPID)
    in_machine nsenter --target "$pid" --mount -- bash -c '
        for dir in / /usr /etc /etc/fogbeat /var /var/lib /var/lib/fogbeat /run /run/fogbeat /tmp /var/tmp /home /root /srv /boot /sys /proc/sys; do
            setpriv --reuid fogbeat --regid fogbeat --clear-groups test -w "$dir" && echo "$dir"
        done' | sort | tr '\n' ' ' | sed 's/ $//'
}
# The user of the last request that was noted: one that changes something.
audited() {
    in_machine runuser -u nurse -- fogbeat uplink forget nobody-knows >/dev/null 2>&1
    in_machine fogbeat audit show --json 2>/dev/null | python3 -c 'import json, sys
text = sys.stdin.read()
try: entries = json.loads(text)
except ValueError: entries = [json.loads(line) for line in text.splitlines()]
names = [str((e.get("who") or {}).get("name")) for e in entries if isinstance(e, dict)]
print("nurse" if "nurse" in names else names)'
}
# As the gateway would ask for it: by the bus, as its own user.
restart_unit() {
    [ -e "$root/etc/systemd/system/bluetooth.service" ] || {
        printf '[Service]\nType=oneshot\nExecStart=/bin/true\n' >"$root/etc/systemd/system/bluetooth.service"
        in_machine systemctl daemon-reload
    }
    in_machine runuser -u fogbeat -- busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 \
        org.freedesktop.systemd1.Manager RestartUnit ss "$1" replace
}

#!/usr/bin/env bash
# The service under a real systemd (see machine.sh): what the unit promises, tried. Needs root; from a clean machine
# about two minutes more for the Debian it boots.
#
#   tests/systemd/run.sh          what .ci/run does, about a minute
#   tests/systemd/run.sh full     also a commit that hangs with its disk, and a stop that delivers for 35 s
#
# FOGBEAT_BIN: the binary under test, target/debug/fogbeat if not given. FOGBEAT_KEEP=1 leaves the machine's files.
set -uo pipefail
cd "$(dirname "$0")/../.."
MACHINE_SCRIPTS=$PWD/tests/systemd
. tests/systemd/machine.sh
. tests/systemd/check.sh
form=${1:-short}
binary=${FOGBEAT_BIN:-$PWD/target/debug/fogbeat}
name=unit-$$
root=$MACHINES/$name/root
state=$MACHINES/$name/state.img

can_boot || exit 0
[ -x "$binary" ] || { echo "no $binary: cargo build, or set FOGBEAT_BIN"; exit 1; }
machine_root || exit 1
trap 'in_machine fsfreeze -u /var/lib/fogbeat 2>/dev/null; [ -n "${FOGBEAT_KEEP:-}" ] || machine_forget "$name"' EXIT

in_machine() { machine_do "$name" "$@"; }
unit() { in_machine systemctl show fogbeat --value -p "$1"; }
log() { in_machine journalctl -u fogbeat -o cat --no-pager "$@"; }
ask() { in_machine fogbeat status --json | json "$1"; }
# The worst that doctor finds of one thing, and why.
doctor() { in_machine fogbeat doctor --listen 0s --json | python3 -c 'import json, sys
found = [f for f in json.load(sys.stdin)["findings"] if f["check"] == sys.argv[1]]
worst = max(found, key=lambda f: ["ok", "skipped", "warning", "error"].index(f["verdict"]))
print(worst["verdict"], worst["reason"])' "$1"; }
publish() { in_machine mosquitto_pub -h 127.0.0.1 -q 1 -t "hr/$1" -m '{"bpm":71}'; }
# publish without an end of its own: somebody who waits for an acknowledgement that does not come
publish_and_wait() { machine_do "$name" timeout 90 mosquitto_pub -h 127.0.0.1 -q 1 -t "hr/$1" -m '{"bpm":72}' >/dev/null 2>&1 & waiting=$!; }
drop_in() { mkdir -p "$root/etc/systemd/system/fogbeat.service.d"; cat >"$root/etc/systemd/system/fogbeat.service.d/test.conf"; in_machine systemctl daemon-reload; }
settings() { { echo '[mqtt.listener]'; echo 'anonymous = true'; cat; } >"$root/etc/fogbeat/fogbeat.toml"; }
credentials() { in_machine ls /run/credentials/fogbeat.service | sort | tr '\n' ' ' | sed 's/ $//'; }
restarted() { [ "$(unit NRestarts)" = "$1" ] && [ "$(unit ActiveState)" = active ]; }

# The files as a package would put them there.
mkdir -p "$MACHINES/$name"
truncate -s 192M "$state" && mkfs.ext4 -q "$state" || exit 1
echo 'mkdir -p "$root/var/lib/fogbeat" && mount -o loop "$place/state.img" "$root/var/lib/fogbeat"' >"$MACHINES/$name/before"
machine_boot "$name" || exit 1
strip -o "$root/usr/bin/fogbeat" "$binary"
install -Dm644 systemd/fogbeat.service "$root/usr/lib/systemd/system/fogbeat.service"
install -Dm644 systemd/fogbeat.sysusers "$root/usr/lib/sysusers.d/fogbeat.conf"
install -Dm644 systemd/fogbeat.tmpfiles "$root/usr/lib/tmpfiles.d/fogbeat.conf"
install -Dm644 systemd/fogbeat.dbus.conf "$root/usr/share/dbus-1/system.d/fogbeat.conf"
install -Dm644 systemd/fogbeat.rules "$root/usr/share/polkit-1/rules.d/50-fogbeat.rules"
install -d "$root/etc/fogbeat"
in_machine systemd-sysusers 2>/dev/null
in_machine systemd-tmpfiles --create fogbeat.conf
in_machine useradd -M -G fogbeat nurse
in_machine useradd -M stranger
# A credential is taken from where systemd looks for it.
install -dm700 "$root/etc/credstore"
in_machine fogbeat journal key new /etc/credstore/fogbeat.journal-key >/dev/null 2>&1
(umask 077 && printf '%064d\n' 7 >"$root/etc/credstore/fogbeat.pseudonym-key" && printf '[default]\naws_access_key_id = x\naws_secret_access_key = y\n' >"$root/etc/credstore/fogbeat.aws")
settings </dev/null

section "the unit"
check "systemd finds nothing to say about it" none in_machine systemd-analyze verify --man=no /usr/lib/systemd/system/fogbeat.service
check "its exposure is at most 1.5: $(exposure)" below 1.51 exposure
check "it waits for no network" no_match network-online in_machine systemctl list-dependencies --all --plain fogbeat
check "no start limit can strand a site" equals 0 unit StartLimitIntervalUSec
check "limits of memory are set" equals "335544320 469762048" memory_limits
in_machine systemctl -q enable fogbeat

section "at boot, with no network"
machine_halt "$name"
machine_boot "$name" || exit 1
check "there is no network" equals lo in_machine ls /sys/class/net
check "the boot is complete and nothing failed" equals running in_machine systemctl is-system-running --wait
check "it is ready" equals active in_machine systemctl is-active fogbeat
check "STATUS= says in words what it does" match "takes readings (0 stored since the start); 0 MQTT connections; uplink directory has everything" unit StatusText
check "the port is bound once it is ready" succeeds publish strap-1
check "what is acknowledged is stored" equals 1 ask journal.readings
check "doctor finds the service in order" match "ok is active" doctor service
check "and its user, who may read what it needs" match "ok the gateway's user is fogbeat" doctor user

section "inside the sandbox"
check "it runs as its own user" equals fogbeat in_machine stat -c %U "/proc/$(unit MainPID)"
check "the boot id is the kernel's" equals "$(tr -d - </proc/sys/kernel/random/boot_id)" ask clock.boot
outside=$(in_machine timedatectl show -p NTPSynchronized --value)
check "timedated's word on the clock is heard" within 15 equals "$([ "$outside" = yes ] && echo synchronised || echo not_synchronised)" ask clock.heard
in_machine mkdir -p /run/systemd/timesync
in_machine touch /run/systemd/timesync/synchronized
check "timesyncd's mark makes the clock synchronised" within 15 equals True ask clock.synced
check "credentials are handed over, each that is there" equals "aws fogbeat-pseudonym-key journal-key" credentials
check "the journal's key reaches the journal" not_equals None ask journal.encryption.key
check "the allocator's threshold is there from the start: no second exec" match glibc.malloc.mmap_threshold=131072 unit Environment
check "it may write nothing but its own directories" equals "/run/fogbeat /tmp /var/lib/fogbeat /var/tmp" writable
check "a member of the group may ask it" match '"phase": "running"' in_machine runuser -u nurse -- fogbeat status --json
check "a member of the group is told by doctor how it is" match "1 readings stored" in_machine runuser -u nurse -- fogbeat doctor --listen 0s
check "a stranger may not" fails in_machine runuser -u stranger -- fogbeat status
check "who asked is known to the audit log, through sudo as well" within 5 equals nurse audited
check "restarting bluetooth.service is allowed to it" succeeds restart_unit bluetooth.service
check "restarting anything else is not" fails restart_unit dbus.service

section "reload"
pid=$(unit MainPID)
printf '[log]\nlevel = "debug"\n' | settings
check "a reload works" succeeds in_machine systemctl reload fogbeat
check "it takes over the log level" within 5 match "configuration read again" log
check "by the same process" equals "$pid" unit MainPID

section "kill -9"
in_machine bash -c "kill -9 $pid"
check "it is started again" within 10 restarted 1
check "readings are still there" equals 0 ask journal.lost
check "and new ones are taken" succeeds publish strap-1

section "watchdog"
drop_in <<<$'[Service]\nWatchdogSec=3s\nTimeoutAbortSec=2s'
settings </dev/null
in_machine systemctl restart fogbeat
# NRestarts starts anew with a restart by hand.
sleep 7
check "it is fed while all is well" equals 0 unit NRestarts
in_machine bash -c "kill -STOP $(unit MainPID)"
check "a process that stands still is replaced" within 20 restarted 1
check "by the watchdog" match "Watchdog timeout" in_machine journalctl -b --no-pager -u fogbeat
check "which doctor tells" match "warning the watchdog had to end it" doctor service
if [ "$form" = full ]; then
    publish strap-1
    in_machine fsfreeze -f /var/lib/fogbeat
    publish_and_wait strap-2
    check "a commit that hangs is told" within 50 match "no progress in: journal" unit StatusText
    check "and ends in the watchdog" within 15 match "Watchdog timeout" in_machine journalctl -b --no-pager -u fogbeat --since -20s
    in_machine fsfreeze -u /var/lib/fogbeat
    check "it works again when the disk does" within 30 restarted 2
    wait "$waiting"
    check "and takes readings" succeeds publish strap-1
fi

section "stop"
printf '[gateway]\nshutdown_grace = "3s"\n[[uplink]]\nkind = "firehose"\nstream = "x"\nregion = "eu-west-1"\nendpoint_url = "http://127.0.0.1:9"\n' | settings
in_machine systemctl restart fogbeat
publish strap-1
begun=$SECONDS
in_machine systemctl stop fogbeat
check "an uplink that takes nothing does not hold it up beyond the grace" below 7 echo $((SECONDS - begun))
check "in good order" equals success unit Result
if [ "$form" = full ]; then
    # Takes connections and never answers: a socket whose service never looks at it.
    in_machine systemd-run -q --unit silent --socket-property=ListenStream=127.0.0.1:9999 sleep 600
    printf '[gateway]\nshutdown_grace = "35s"\n[[uplink]]\nkind = "firehose"\nstream = "x"\nregion = "eu-west-1"\nendpoint_url = "http://127.0.0.1:9999"\ntimeout = "60s"\n' | settings
    in_machine systemctl restart fogbeat
    publish strap-1
    sleep 1
    begun=$SECONDS
    in_machine systemctl stop fogbeat
    took=$((SECONDS - begun))
    check "a grace beyond the unit's time-out is granted: $took s" at_least 31 echo $took
    check "and no more" below 45 echo $took
    check "and the stop is in good order" equals success unit Result
fi

section "what cannot be mended by a restart, and what can"
drop_in <<<$'[Service]\nRestartSec=100ms'
echo 'mqtt.lisener.bind = "x"' >"$root/etc/fogbeat/fogbeat.toml"
in_machine systemctl start fogbeat 2>/dev/null
sleep 2
check "a wrong configuration ends in 78" equals 78 unit ExecMainStatus
check "and is not tried again" equals 0 unit NRestarts
check "doctor tells of the service" match "error has failed: it does not like its configuration" doctor service
check "and of the configuration" match "error mqtt.lisener" doctor configuration
settings </dev/null
in_machine systemd-run -q --unit taken bash -c 'exec fogbeat run --config /etc/fogbeat/taken.toml'
printf '[gateway]\nstate_dir = "/var/tmp/taken"\n[mqtt.listener]\nanonymous = true\n[http]\nenabled = false\n' >"$root/etc/fogbeat/taken.toml"
in_machine systemctl restart taken
sleep 1
in_machine systemctl --no-block start fogbeat
check "a port that is taken is tried for, beyond any start limit" within 30 at_least 12 unit NRestarts
check "doctor tells by whom" match "error 127.0.0.1:1883 is taken by fogbeat" doctor listener
in_machine systemctl stop taken
check "and got when it is free" within 15 equals active in_machine systemctl is-active fogbeat
in_machine rm -rf /etc/systemd/system/fogbeat.service.d /var/tmp/taken
in_machine systemctl daemon-reload

section "a disk that is full at boot"
in_machine systemctl stop fogbeat
in_machine bash -c 'cat /dev/zero >/var/lib/fogbeat/somebody-elses' 2>/dev/null
machine_halt "$name"
machine_boot "$name" --starting || exit 1
check "it waits, and is not ready" within 20 equals activating in_machine systemctl is-active fogbeat
check "and says for what" within 20 match "waits for its disk" unit StatusText
check "and at the socket" within 5 match disk ask trouble
sleep 5
check "without giving up" equals 0 unit NRestarts
check "doctor tells of the disk" match "error" doctor "disk space"
in_machine rm /var/lib/fogbeat/somebody-elses
check "it is ready within 10 s of the disk's return" within 10 equals active in_machine systemctl is-active fogbeat
check "and takes readings" succeeds publish strap-1

section "in all this"
check "nothing was lost" equals 0 ask journal.lost
check "no core was left" equals "" in_machine find /var/lib/systemd/coredump /var/lib/fogbeat -type f -name 'core*'
verdict

#!/usr/bin/env bash
# The installation chapter of README, followed word by word in a clean Debian under a real systemd (see machine.sh): its
# commands are taken from README itself. Then what the same site does later: mDNS beside avahi, new hardware, purge. Needs
# root and cargo-deb.
#
#   tests/systemd/first-hour.sh             of target/debug/fogbeat
#
# FOGBEAT_BIN: another binary. FOGBEAT_KEEP=1 leaves the machine's files.
set -uo pipefail
cd "$(dirname "$0")/../.."
MACHINE_SCRIPTS=$PWD/tests/systemd
. tests/systemd/machine.sh
. tests/systemd/check.sh
binary=${FOGBEAT_BIN:-$PWD/target/debug/fogbeat}
name=hour-$$
root=$MACHINES/$name/root

can_boot || exit 0
machine_root || exit 1
trap '[ -n "${FOGBEAT_KEEP:-}" ] || machine_forget "$name"' EXIT
in_machine() { machine_do "$name" "$@"; }
ask() { in_machine fogbeat status --json | json "$1"; }
owner() { in_machine stat -c %U:%G:%a "$1"; }
# The first block of commands of a chapter of README.
chapter() { awk -v chapter="## $1" '$0 == chapter { here = 1; next } /^## / { here = 0 } here && /^```sh$/ { on = 1; next } on && /^```$/ { exit } on' README.md; }
# Each command, and after it how it ended.
with_exits() { while IFS= read -r line; do printf '%s\nprintf "exit %%s of: %%s\\n" $? %q\n' "$line" "$line"; done; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
package=$MACHINES/$name/fogbeat_${version}_$(dpkg --print-architecture).deb
mkdir -p "$MACHINES/$name"
check "the package is built" succeeds systemd/debian/build.sh --binary "$binary" --fast --output "$package"
machine_boot "$name" || exit 1
in_machine bash -c 'printf "127.0.0.1 localhost\n127.0.1.1 %s\n" "$(hostname)" >>/etc/hosts'
cp "$package" "$root/root/"

section "README's installation chapter"
commands=$(chapter Install | sed "s/_amd64[.]deb/_$(dpkg --print-architecture).deb/")
last=$(tail -1 <<<"$commands")
head -n -1 <<<"$commands" | with_exits >"$root/root/first-hour"
log=$MACHINES/$name/log
in_machine bash -c 'cd && . ./first-hour' >"$log" 2>&1
cat_log() { cat "$log"; }
every_command() { grep -v '^exit 0 of: \|^exit 1 of: .*fogbeat doctor' "$log" | grep '^exit '; }
check "every command ends well" none every_command
check "as many as there are" equals "$(head -n -1 <<<"$commands" | wc -l)" grep -c '^exit ' "$log"
check "the CA's fingerprint is shown" match SHA-256 cat_log
check "and what to do next" match "Next:" cat_log
check "the first reading is delivered" within 90 match '"bpm":71' in_machine bash -c "$last"
check "under the site's name" match '"site":"gym"' in_machine bash -c "$last"
[ "$failed" = 0 ] || cat_log

section "what init left"
check "the service runs" equals active in_machine systemctl is-active fogbeat
check "its certificates are its own" equals fogbeat:fogbeat:600 owner /var/lib/fogbeat/tls/ca.key
check "in a directory of its own" equals fogbeat:fogbeat:700 owner /var/lib/fogbeat/tls
check "everybody may read the configuration" equals root:root:644 owner /etc/fogbeat/fogbeat.toml
check "and the CA's certificate" equals root:root:644 owner /etc/fogbeat/site-ca.pem
check "nothing was warned of" equals "" in_machine journalctl -u fogbeat -p warning -o cat --no-pager -q
check "an upgrade asks nothing" succeeds in_machine env DEBIAN_FRONTEND=noninteractive dpkg -i "/root/$(basename "$package")"
check "and keeps the answers" match 'site = "gym"' in_machine cat /etc/fogbeat/fogbeat.toml
check "init does not undo what was edited since" succeeds in_machine bash -c \
    'echo "# by hand" >>/etc/fogbeat/fogbeat.toml; fogbeat init --site other; [ $? = 64 ] && tail -1 /etc/fogbeat/fogbeat.toml | grep "by hand"'

section "a network: the certificate follows, mDNS beside avahi"
nsenter --target "$(cat "$MACHINES/$name/pid")" --net sh -c \
    'ip link add lan0 type veth peer name lan1 && ip address add 10.99.0.7/24 dev lan0 && ip link set lan0 up && ip link set lan1 up'
certificate() { in_machine fogbeat certificate show; }
check "the sandbox is opened as init says" succeeds in_machine bash -c \
    'install -D -m 644 /usr/share/doc/fogbeat/examples/lan.conf /etc/systemd/system/fogbeat.service.d/lan.conf && systemctl daemon-reload && systemctl restart fogbeat'
check "the certificate is for the new address" within 20 match 10.99.0.7 certificate
in_machine sed -i 's/^mdns = false/mdns = true/' /etc/fogbeat/fogbeat.toml
check "it starts with mDNS" succeeds in_machine systemctl restart fogbeat
in_machine systemctl start avahi-daemon
id=$(ask gateway)
browse() { in_machine timeout 5 avahi-browse -prt "$1"; }
check "avahi finds the encrypted port" within 30 match ";fogbeat-$id.local;10.99.0.7;8883;" browse _secure-mqtt._tcp
check "and not the one on loopback" no_match ";1883;" browse _mqtt._tcp
check "the certificate is for that name as well" within 20 match "fogbeat-$id.local" certificate
check "nothing was warned of" equals "" in_machine journalctl -u fogbeat -p warning -o cat --no-pager -q
in_machine systemctl stop fogbeat
check "stopped, it takes its word back" within 15 no_match ";8883;" browse _secure-mqtt._tcp
in_machine systemctl start fogbeat

section "new hardware"
secret_files() { in_machine tar tf /root/gym.tar; }
check "a backup is taken while it runs" succeeds in_machine fogbeat backup /root/gym.tar
check "it holds the CA's key" match state/tls/ca.key secret_files
check "for root only" equals root:root:600 owner /root/gym.tar
spool=$(ask journal.spool) ca=$(in_machine fogbeat certificate ca)
check "another machine: everything is purged" succeeds in_machine dpkg -P fogbeat
check "without a rest" equals "" in_machine find /etc/fogbeat /var/lib/fogbeat -maxdepth 0
check "the package again" succeeds in_machine env DEBIAN_FRONTEND=noninteractive dpkg -i "/root/$(basename "$package")"
check "a running gateway is not restored over" fails in_machine fogbeat restore /root/gym.tar
in_machine systemctl stop fogbeat
check "a stopped one is" succeeds in_machine fogbeat restore /root/gym.tar
check "it starts" succeeds in_machine systemctl start fogbeat
check "as the same gateway" equals "$id" ask gateway
check "with the same CA" equals "$ca" in_machine fogbeat certificate ca
check "with a spool name of its own" not_equals "$spool" ask journal.spool
check "its files are the service's" equals fogbeat:fogbeat:600 owner /var/lib/fogbeat/devices.toml
check "and nothing has failed" equals running in_machine systemctl is-system-running
verdict

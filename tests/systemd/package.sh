#!/usr/bin/env bash
# The package's whole life under a real systemd (see machine.sh): lintian, install, upgrade with data kept, remove, purge.
# Needs root, cargo-deb and lintian.
#
#   tests/systemd/package.sh             of target/debug/fogbeat
#   tests/systemd/package.sh --dist      of target/dist/fogbeat, with the bounds on size as well
#
# FOGBEAT_BIN: another binary. FOGBEAT_KEEP=1 leaves the machine's files.
set -uo pipefail
cd "$(dirname "$0")/../.."
MACHINE_SCRIPTS=$PWD/tests/systemd
. tests/systemd/machine.sh
. tests/systemd/check.sh
profile=debug fast=--fast
[ "${1:-}" = --dist ] && profile=dist fast=
binary=${FOGBEAT_BIN:-$PWD/target/$profile/fogbeat}
name=package-$$
root=$MACHINES/$name/root

can_boot || exit 0
machine_root || exit 1
trap '[ -n "${FOGBEAT_KEEP:-}" ] || machine_forget "$name"' EXIT
in_machine() { machine_do "$name" "$@"; }
unit() { in_machine systemctl show fogbeat --value -p "$1"; }
ask() { in_machine fogbeat status --json | json "$1"; }
publish() { in_machine mosquitto_pub -h 127.0.0.1 -q 1 -u strap-1 -P "$secret" -t hr/strap-1 -m '{"bpm":71}'; }
install_package() { in_machine env DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold -i "$1"; }
exported() { in_machine fogbeat journal export | grep -c '"device":"strap-1"'; }
enabled_and_active() { echo "$(in_machine systemctl is-enabled fogbeat) $(in_machine systemctl is-active fogbeat)"; }
pages() { dpkg-deb -c "$first" | grep -c 'man1/fogbeat.*[.]1[.]gz'; }
version() { in_machine dpkg-query -f '${Status} ${Version}' -W fogbeat; }
# Delivered or not: what a reader of the state directory finds.
owner() { in_machine stat -c %U:%G:%a "$1"; }

packages=$MACHINES/$name/packages
mkdir -p "$packages"
section "two packages, one newer than the other"
first=$packages/first.deb second=$packages/second.deb
check "the package is built" succeeds systemd/debian/build.sh --binary "$binary" $fast --output "$first"
check "and a newer one" succeeds systemd/debian/build.sh --binary "$binary" $fast --output "$second" --deb-version 0.1.0+test
check "lintian finds nothing" none lintian --allow-root --fail-on warning "$first"
if [ "$profile" = dist ]; then
    check "the binary has at most 12 MB" below 12000001 stat -c %s target/deb/fogbeat
    check "the package has at most 4 MB" below 4000001 stat -c %s "$first"
fi
check "a page for every command" at_least 20 pages

machine_boot "$name" || exit 1
cp "$first" "$second" "$root/root/"

section "install"
check "it installs" succeeds install_package /root/first.deb
check "the service is enabled and ready" equals "enabled active" enabled_and_active
check "the user is there" match fogbeat in_machine getent passwd fogbeat
check "the state directory is the service's alone" equals fogbeat:fogbeat:700 owner /var/lib/fogbeat
check "the socket is for the group" equals fogbeat:fogbeat:660 owner /run/fogbeat/fogbeat.sock
secret=$(in_machine fogbeat device add strap-1 | grep -oE '[A-Za-z0-9_-]{20,}' | head -1)
check "a device that was added publishes at once" succeeds publish
check "what is acknowledged is stored" equals 1 ask journal.readings
check "the manual is there" match "fogbeat run" in_machine man -P cat fogbeat-run
check "and so are completions" match complete in_machine bash -c '. /usr/share/bash-completion/completions/fogbeat && complete -p fogbeat'
check "the configuration is valid, and all its own" succeeds in_machine fogbeat check
check "nothing was warned of" equals "" in_machine journalctl -u fogbeat -p warning -o cat --no-pager -q

section "upgrade"
in_machine bash -c 'echo "# kept" >>/etc/fogbeat/fogbeat.toml'
id=$(ask gateway) pid=$(unit MainPID)
check "it upgrades" succeeds install_package /root/second.deb
check "to the newer one" equals "install ok installed 0.1.0+test" version
check "the new binary runs" not_equals "$pid" unit MainPID
check "the configuration is as it was edited" match "# kept" in_machine tail -1 /etc/fogbeat/fogbeat.toml
check "the gateway is the same" equals "$id" ask gateway
check "its readings are there" equals 1 exported
check "and its devices" succeeds publish

section "remove"
check "it is removed" succeeds in_machine dpkg -r fogbeat
check "the service is gone" fails in_machine systemctl is-active fogbeat
check "readings stay" succeeds in_machine test -d /var/lib/fogbeat/spool
check "the configuration stays" succeeds in_machine test -f /etc/fogbeat/fogbeat.toml
check "installed again it goes on where it was" succeeds install_package /root/second.deb
check "as the same gateway" within 10 equals "$id" ask gateway

section "purge"
check "it is purged" succeeds in_machine dpkg -P fogbeat
check "nothing is left" equals "" in_machine find / -xdev \( -name 'fogbeat*' -o -name '_fogbeat' \) -not -path '/root/*' -not -path '/proc/*' -not -path '/tmp/*' -not -path '/var/log/*' -not -path '/var/cache/man/*'
check "and nothing has failed" equals running in_machine systemctl is-system-running
verdict

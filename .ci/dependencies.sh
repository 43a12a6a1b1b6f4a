#!/usr/bin/env bash
# The rules on dependencies: rustls once, 0.23 or later, on ring; no second TLS stack; nothing that must be built with cmake or linked
# against OpenSSL.
set -euo pipefail
cd "$(dirname "$0")/.."
tree=$(cargo tree --locked --edges normal,build --prefix none --format '{p}' | sed 's| (\*)$||' | sort -u)
fail=0
for crate in openssl openssl-sys native-tls aws-lc-rs aws-lc-sys cmake; do
    if grep -q "^$crate v" <<<"$tree"; then
        echo "not allowed: $(grep "^$crate v" <<<"$tree")"
        cargo tree --locked --edges normal,build --invert "$crate" | sed -n 1,20p
        fail=1
    fi
done
for crate in rustls ring; do
    versions=$(grep -c "^$crate v" <<<"$tree" || true)
    if [ "$versions" != 1 ]; then
        echo "$crate: $versions versions, wanted one:"
        grep "^$crate v" <<<"$tree" || true
        fail=1
    fi
done
# The older ones have unpatched faults and another interface.
if grep -qE '^rustls v0\.([0-9]|1[0-9]|2[0-2])\.' <<<"$tree"; then
    echo "rustls is older than 0.23: $(grep '^rustls v' <<<"$tree")"
    fail=1
fi
[ "$fail" = 0 ] && echo "$(wc -l <<<"$tree") crates; $(grep '^rustls v' <<<"$tree"), $(grep '^ring v' <<<"$tree")"
exit "$fail"

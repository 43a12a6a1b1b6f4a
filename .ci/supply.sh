#!/usr/bin/env bash
# What the program is made of: licences, sources and forbidden crates by deny.toml, and a bill of materials (CycloneDX) for
# each architecture below target/sbom. Known vulnerabilities are looked for where their database can be had.
set -euo pipefail
cd "$(dirname "$0")/.."
tool() { command -v "$1" >/dev/null || CARGO_TARGET_DIR=target/tools cargo install --locked --quiet --debug "$@"; }
tool cargo-deny
tool cargo-cyclonedx
cargo deny --offline --locked check bans licenses sources
if timeout 60 cargo deny --locked check advisories >target/advisories.log 2>&1; then
    echo "advisories ok"
elif grep -qE '^error\[(vulnerability|unsound|unmaintained|notice|yanked)' target/advisories.log; then
    # Told, and judged by people: a build must not break because somebody found a fault elsewhere overnight.
    grep -E '^error\[|ID:|Solution:' target/advisories.log
else
    echo "SKIPPED: advisories (their database cannot be reached)"
fi
mkdir -p target/sbom
for triple in x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu; do
    name=fogbeat-${triple%%-*}.cdx
    # The tool writes beside Cargo.toml, and nowhere else.
    cargo cyclonedx --quiet --format json --spec-version 1.5 --target "$triple" --override-filename "$name"
    mv "$name.json" target/sbom/
    python3 - "target/sbom/$name.json" Cargo.lock <<'END'
import json, re, sys
bill = json.load(open(sys.argv[1]))
parts = {(part["name"], part["version"]) for part in bill["components"]}
locked = set(re.findall(r'name = "([^"]+)"\nversion = "([^"]+)"', open(sys.argv[2]).read()))
strangers = parts - locked
missing = [name for name in ("rustls", "ring", "sled", "tokio", "rumqttd") if not any(part[0] == name for part in parts)]
assert bill["bomFormat"] == "CycloneDX" and not strangers and not missing, (strangers, missing)
assert all(part.get("licenses") for part in bill["components"]), "a part without a licence"
print(f"{sys.argv[1]}: CycloneDX {bill['specVersion']}, {len(parts)} parts, each with its licence")
END
done

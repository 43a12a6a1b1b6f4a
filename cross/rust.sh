#!/usr/bin/env bash
# Debian's own Rust with a standard library for arm64, unpacked below $1 and registered nowhere: nothing on this machine
# is replaced, and no rustup is needed. About 145 MB to fetch, 900 MB unpacked. Prints nothing; does nothing the second time.
set -euo pipefail
place=$1
[ -x "$place/rustc" ] && exit 0
mkdir -p "$place/lists/partial" "$place/cache/archives/partial"
cd "$place"
here=$PWD
cat >sources.list <<END
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security bookworm-security main
END
cat >apt.conf <<END
Dir::State::lists "$here/lists";
Dir::Cache "$here/cache";
Dir::Etc::sourcelist "$here/sources.list";
Dir::Etc::sourceparts "/dev/null";
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "root";
END
export APT_CONFIG=$here/apt.conf
apt-get -qq update
# rustc-web follows current Rust in Debian's stable releases; its version is part of its libraries' names.
std=$(apt-cache depends libstd-rust-web-dev:amd64 | grep -o 'libstd-rust-web-[0-9][0-9.]*' | head -1)
llvm=$(apt-cache depends "$std:amd64" rustc-web:amd64 | grep -o 'libllvm[0-9][0-9]*' | head -1)
apt-get -qq download rustc-web:amd64 libstd-rust-web-dev:amd64 libstd-rust-web-dev:arm64 "$std:amd64" "$std:arm64" "$llvm:amd64"
for package in ./*.deb; do dpkg -x "$package" root; done
rm -f ./*.deb
cat >rustc.new <<END
#!/bin/sh
LD_LIBRARY_PATH=$here/root/usr/lib/x86_64-linux-gnu exec $here/root/usr/bin/rustc --sysroot $here/root/usr "\$@"
END
chmod +x rustc.new
./rustc.new --version >version
mv rustc.new rustc

//! The machine around one gateway, as far as time goes: its boot id and uptime (a time namespace and a bind mount), its
//! wall clock (a preloaded library, `clockstep.c`), and whether its clock counts as synchronised (a `timedatectl` of our
//! own). Needs root, `unshare` and a C compiler. Everything else of the system is left alone.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::rng::Rng;

/// Runs the rest of its arguments in a boot of its own: boot id file (`<root>/world/...`), program. Lets go of other
/// tests' disks, which its namespace has inherited: as long as anybody holds one, it cannot be cut and mounted anew.
const IN_BOOT: &str = r#"
for disk in $(awk '$1 ~ "^/dev/loop" { print $2 }' /proc/mounts); do
    case "$disk" in "${1%/world/*}"/*) ;; *) umount --lazy "$disk" ;; esac
done
mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@""#;

pub struct World {
    dir: PathBuf,
    boottime_s: i64,
    step: fs::File,
}

impl World {
    /// A machine that has just booted, its clock right and synchronised.
    pub fn new(dir: &Path, rng: &mut Rng) -> Self {
        fs::create_dir_all(dir).expect("make a directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clockstep.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(dir.join("clockstep.so"))
            .arg(source)
            .status();
        assert!(compiled.is_ok_and(|status| status.success()), "this test needs a C compiler (Debian: gcc)");
        let step = fs::File::create(dir.join("step")).expect("make the clock's file");
        step.write_all_at(&0i64.to_ne_bytes(), 0).expect("write");
        let timedatectl = dir.join("timedatectl");
        let said = dir.join("synchronised");
        fs::write(&timedatectl, format!("#!/bin/sh\nexec cat '{}'\n", said.display())).expect("write");
        fs::set_permissions(&timedatectl, fs::Permissions::from_mode(0o755)).expect("make it a program");
        let mut world = Self { dir: dir.to_owned(), boottime_s: 0, step };
        world.synchronise(true);
        world.reboot(rng);
        world
    }

    /// Another boot: a new id, and an uptime from 0. As on a real machine it begins after the boot before it has ended:
    /// what a gateway says of a boot that never knew the time rests on that.
    pub fn reboot(&mut self, rng: &mut Rng) {
        let uptime = fs::read_to_string("/proc/uptime").expect("the uptime");
        let uptime: f64 = uptime.split(' ').next().and_then(|s| s.parse().ok()).expect("a number");
        // A time namespace takes whole seconds.
        let begin = uptime.floor() + 1.0;
        std::thread::sleep(Duration::from_secs_f64(begin - uptime));
        self.boottime_s = -(begin as i64);
        let (a, b) = (rng.next(), rng.next());
        let id = format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}\n",
            a >> 32,
            a >> 16 & 0xffff,
            a & 0xfff,
            b >> 52,
            b & 0xffff_ffff_ffff
        );
        // A file of its own: the running boot still has the old one in its place.
        fs::write(self.boot_id(), id).expect("write the boot id");
    }

    fn boot_id(&self) -> PathBuf {
        self.dir.join(format!("boot{}", self.boottime_s))
    }

    /// How far the wall clock is off the true time from now on, ms.
    pub fn step(&self, ms: i64) {
        self.step.write_all_at(&ms.to_ne_bytes(), 0).expect("step the clock");
    }

    /// Whether the clock counts as synchronised from now on.
    pub fn synchronise(&self, yes: bool) {
        fs::write(self.dir.join("synchronised"), if yes { "yes\n" } else { "no\n" }).expect("write");
    }

    /// The words to put before a program so that it runs in this boot.
    pub fn under(&self) -> Vec<String> {
        let words = ["unshare", "--mount", "--time", "--boottime"].map(str::to_owned);
        let rest = ["sh", "-c", IN_BOOT, "sh"].map(str::to_owned);
        let mut words = words.to_vec();
        words.push(self.boottime_s.to_string());
        words.extend(rest);
        words.push(self.boot_id().display().to_string());
        words
    }

    /// Sets the environment of a program that is to live here.
    pub fn around(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.dir.display()))
            .env("CLOCKSTEP", self.dir.join("step"))
            .env("LD_PRELOAD", self.dir.join("clockstep.so"));
    }
}

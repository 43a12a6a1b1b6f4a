//! A small ext4 filesystem on a loop device: a disk of its own, whose writes can be counted and whose power can be cut.
//! Needs root, `losetup`, `mkfs.ext4`, `mount` and `python3` (for the one ioctl: this crate has no unsafe code).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: from now on nothing reaches the device, and what the ext4
/// journal had not written is gone, as when the plug is pulled. `_IOR('X', 125, __u32)`, flag 2.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// A mounted loop device; unmounted and given back when dropped.
pub struct LoopDisk {
    device: String,
    pub mount: PathBuf,
}

impl LoopDisk {
    /// A filesystem of `mib` MiB in `root/disk.img`, mounted at `root/disk`.
    pub fn new(root: &Path, mib: u64) -> Result<Self, String> {
        let image = root.join("disk.img");
        let mount = root.join("disk");
        fs::create_dir_all(&mount).map_err(|e| e.to_string())?;
        let file = fs::File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(mib << 20).map_err(|e| e.to_string())?;
        run("mkfs.ext4", &["-q", "-F", &text(&image)])?;
        let device = run("losetup", &["--find", "--show", &text(&image)])?.trim().to_owned();
        let disk = Self { device, mount };
        disk.mount()?;
        Ok(disk)
    }

    /// The same, for a test that cannot do without. `None`, and it is told, where there are no loop devices and
    /// `FOGBEAT_NO_LOOP=1` accepts that `what` is not tested.
    pub fn for_test(root: &Path, mib: u64, what: &str) -> Option<Self> {
        match Self::new(root, mib) {
            Ok(disk) => Some(disk),
            Err(why) if std::env::var_os("FOGBEAT_NO_LOOP").is_some() => {
                // Past the test harness, which keeps to itself what passing tests print.
                let _ = writeln!(std::io::stderr(), "SKIPPED: {what} are not tested here: {why}");
                None
            }
            Err(why) => panic!(
                "{what} need root and a loop device ({why}); run as root, or set FOGBEAT_NO_LOOP=1 to leave them out"
            ),
        }
    }

    pub fn mount(&self) -> Result<(), String> {
        retry(|| run("mount", &["-t", "ext4", &self.device, &text(&self.mount)]).map(drop))
    }

    /// Mounts it again, read-only or read-write. For `ro` nobody may have a file open for writing.
    pub fn remount(&self, how: &str) -> Result<(), String> {
        retry(|| run("mount", &["-o", &format!("remount,{how}"), &text(&self.mount)]).map(drop))
    }

    /// The filesystem meets an error and turns read-only, as it does when a card fails; for good, until it is mounted
    /// anew.
    pub fn fail(&self) -> Result<(), String> {
        run("tune2fs", &["-e", "remount-ro", &self.device])?;
        run("mount", &["-o", "remount,errors=remount-ro", &text(&self.mount)])?;
        let name = self.device.trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), b"quota test").map_err(|e| e.to_string())
    }

    /// Somebody else's file takes everything that is left.
    pub fn fill(&self) -> PathBuf {
        let path = self.mount.join("somebody-elses");
        let mut file = fs::File::create(&path).expect("make a file on the disk");
        let zeros = vec![0; 1 << 16];
        // In ever smaller pieces, to the last block.
        for piece in [zeros.len(), 4096, 512] {
            while file.write_all(&zeros[..piece]).is_ok() {}
        }
        let _ = file.sync_all();
        path
    }

    /// The power goes: nothing that is not on the device by now will ever be.
    pub fn cut(&self) -> Result<(), String> {
        run("python3", &["-c", SHUTDOWN, &text(&self.mount)]).map(drop)
    }

    /// Power is back: the journal is replayed by the mount. Every process that had files open must be gone.
    pub fn restore(&self) -> Result<(), String> {
        retry(|| run("umount", &[&text(&self.mount)]).map(drop))?;
        self.mount()?;
        // Seen: a filesystem that still answers EIO at the first mount after the shutdown.
        if fs::read_dir(&self.mount).is_err() {
            retry(|| run("umount", &[&text(&self.mount)]).map(drop))?;
            self.mount()?;
        }
        Ok(())
    }

    /// Mounts it anew, after [`LoopDisk::fail`] or a cut, until it can be written. Who else has seen the mount (another
    /// test's namespace) keeps it failed for a while.
    pub fn repair(&self) -> Result<(), String> {
        let mut last = Err("not tried".to_owned());
        for _ in 0..100 {
            last = self.restore().and_then(|()| {
                let probe = self.mount.join("probe");
                fs::write(&probe, b"x").and_then(|()| fs::remove_file(&probe)).map_err(|e| e.to_string())
            });
            if last.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        last
    }

    /// Bytes written to the device since it exists.
    pub fn written(&self) -> u64 {
        let name = self.device.trim_start_matches("/dev/");
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).expect("the device's statistics");
        let sectors: u64 = stat.split_whitespace().nth(6).expect("seven fields").parse().expect("a number");
        sectors * 512
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let mount = text(&self.mount);
        if retry(|| run("umount", &[&mount]).map(drop)).is_err() {
            // Nothing more to be done here than to let go of it as soon as its last user is gone.
            let _ = run("umount", &["--lazy", &mount]);
        }
        let _ = run("losetup", &["--detach", &self.device]);
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// "busy" and spurious EIO last for moments after a shutdown.
fn retry(mut act: impl FnMut() -> Result<(), String>) -> Result<(), String> {
    let mut last = act();
    for _ in 0..50 {
        if last.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        last = act();
    }
    last
}

fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let out = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim()))
    }
}

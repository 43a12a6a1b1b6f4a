"""A disk of its own for each peer: ext4 on a loop device, whose writes are counted and whose power can be cut."""

import fcntl
import os
import pathlib
import struct
import subprocess
import time

# EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: nothing reaches the device any more.
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def patiently(*command):
    for _ in range(50):
        if subprocess.run(command, capture_output=True).returncode == 0:
            return
        time.sleep(0.2)
    run(*command)


class Disk:
    def __init__(self, place: pathlib.Path, mib: int = 1024):
        self.image, self.mount = place / "disk.img", place / "disk"
        self.mount.mkdir(parents=True, exist_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(mib << 20)
        # Whole at once: what ext4 would zero behind the scenes for minutes is nobody's writing.
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self.image))
        self.before = 0
        self.attach()

    def attach(self):
        self.device = run("losetup", "--find", "--show", str(self.image))
        self.since = self.counted()
        patiently("mount", self.device, str(self.mount))

    def detach(self):
        self.before = self.written()
        patiently("umount", str(self.mount))
        # At once, or when nobody has it any more: another mount namespace may have a copy of the mount.
        run("losetup", "-d", self.device)

    def counted(self) -> int:
        """Bytes written to the device since this machine knows it."""
        stat = pathlib.Path(f"/sys/block/{os.path.basename(self.device)}/stat").read_text().split()
        return int(stat[6]) * 512

    def written(self) -> int:
        """Bytes written to the disk so far."""
        return self.before + self.counted() - self.since

    def used(self) -> int:
        total = 0
        for folder, _, files in os.walk(self.mount):
            for name in files:
                try:
                    total += os.lstat(os.path.join(folder, name)).st_blocks * 512
                except FileNotFoundError:
                    pass
        return total

    def cut(self):
        handle = os.open(self.mount, os.O_RDONLY)
        fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        os.close(handle)

    def restore(self):
        """Power is back. By a device of its own: the old one may still be held, and it answers nothing but errors."""
        self.detach()
        self.attach()

    def remove(self):
        self.detach()
        self.image.unlink()

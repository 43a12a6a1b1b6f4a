"""The virtual machine as a process: how QEMU is called, and which accelerator it gets.

`python3 machine.py probe DIRECTORY` finds the accelerator of a machine that was just built.
"""
import os
import pathlib
import subprocess
import sys

TCG = "tcg,thread=multi,tb-size=512"
PROBE_SECONDS = 20


def command(machine, accelerator, append="", share=None, memory_mb=1024):
    """QEMU's command line. Without `share` the machine has no devices: enough for the probe."""
    kernel = f"console=ttyS0 quiet loglevel=3 mitigations=off nopti nokaslr random.trust_cpu=on panic=-1 reboot=t {append}"
    line = [
        "qemu-system-x86_64", "-machine", "q35,usb=off,smbus=off,sata=off,hpet=off", "-accel", accelerator,
        "-cpu", "max", "-smp", "2", "-m", str(memory_mb), "-nodefaults", "-no-user-config", "-no-reboot",
        "-display", "none", "-serial", "stdio",
        "-kernel", str(machine / "vmlinuz"), "-initrd", str(machine / "initrd.img"),
    ]
    if accelerator.startswith("tcg"):
        kernel += " tsc=reliable"  # the emulated counter is steady, and the kernel's check of it takes long
    line += ["-append", kernel]
    if share:
        line += [
            "-drive", f"id=root,file={machine / 'root.sqfs'},format=raw,if=none,readonly=on",
            "-device", "virtio-blk-pci,drive=root",
            "-fsdev", f"local,id=share,path={share},security_model=none",
            "-device", "virtio-9p-pci,fsdev=share,mount_tag=share", "-device", "virtio-rng-pci",
        ]
    return line


def probe(machine):
    """KVM where it carries a stock kernel to user space, else emulation: /dev/kvm alone says little."""
    found = TCG
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        try:
            said = subprocess.run(command(machine, "kvm", "fogbeat.probe"), capture_output=True, timeout=PROBE_SECONDS)
            if b"runs a stock kernel" in said.stdout:
                found = "kvm"
        except subprocess.TimeoutExpired:
            pass
    (machine / "accelerator").write_text(found + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "probe":
        sys.exit(__doc__)
    probe(pathlib.Path(sys.argv[2]))

"""What a scenario acts on: straps and their dongle, bluetoothd, the gateway; and the record of all that happened.

The record (`events.jsonl`) is one JSON object per line with the machine's own clock in `at`, the clock that the
gateway stamps readings with. Judging is done elsewhere, from the record and the delivered files.
"""
import asyncio
import contextlib
import fcntl
import json
import os
import pathlib
import pty
import shutil
import signal
import struct
import subprocess
import termios
import time
import traceback

import radio
from beacons import PasserBy, PolarStrap
from straps import Strap

SHARE = pathlib.Path("/share")
LAKE, MONITOR = pathlib.Path("/tmp/lake"), pathlib.Path("/tmp/btmon.snoop")
CONFIG = pathlib.Path("/tmp/fogbeat.toml")
# Limits that only a broken run meets; emulation on a busy host is slow.
ADAPTER_SECONDS, STREAMING_SECONDS, STOP_SECONDS = 240, 120, 120
QUIET_SECONDS = 5
SETTINGS = """
[gateway]
id = "rig"
state_dir = "/tmp/state"
[clock]
trust = "always"
[mqtt.listener]
enabled = false
[batch]
max_age = "10s"
[[uplink]]
kind = "directory"
path = "/tmp/lake"

"""


class Failed(Exception):
    """The scenario could not be played to its end."""


class Stage:
    share = SHARE

    def __init__(self, scenario):
        self.scenario = scenario
        self.record = open(SHARE / "events.jsonl", "w", buffering=1, encoding="ascii")
        self.air = radio.Air()
        self.bluetoothd = self.gateway = self.monitor = None
        self.dongles = [None] * scenario.dongles
        self.tasks, self.broadcasting = [], []
        self.straps = [
            Strap(i, scenario.strap_name or f"Rig HR {i:02}", self.air, self.note, scenario.pairing)
            for i in range(scenario.straps)
        ]

    def note(self, what, **more):
        self.record.write(json.dumps({"at": round(time.time(), 6), "what": what, **more}) + "\n")

    def log(self, name):
        return open(SHARE / f"{name}.log", "ab")

    def spawn(self, work):
        """A task that goes on by itself; its death is the death of the scenario."""
        def ended(task):
            if not task.cancelled() and task.exception():
                traceback.print_exception(task.exception())
                self.note("failed", reason="a defect of the rig, see play.log")

        task = asyncio.create_task(work)
        task.add_done_callback(ended)
        self.tasks.append(task)
        return task

    # -- the machine ---------------------------------------------------------------------------------------------

    async def set_up(self):
        self.spawn(self._watch_lag())
        if self.scenario.broadcast or self.scenario.debug:
            self.monitor = subprocess.Popen(["btmon", "-w", str(MONITOR)], stdout=subprocess.DEVNULL)
        for strap in self.straps:
            await strap.start()
            self.spawn(strap.beat())
        if not self.scenario.bare:
            await self.bring_up()

    async def bring_up(self):
        self.start_bluetoothd()
        for number in range(self.scenario.dongles):
            self.plug(number)
        await self.until_powered()

    async def _watch_lag(self):
        """How late this process wakes: on a machine that stands still, nobody is to blame for being late."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.5)
            late = time.monotonic() - before - 0.5
            if late > 0.5:
                self.note("lag", seconds=round(late, 3))

    def start_bluetoothd(self):
        command = ["/usr/libexec/bluetooth/bluetoothd", "-n"] + (["-d"] if self.scenario.debug else [])
        self.bluetoothd = subprocess.Popen(command, stdout=self.log("bluetoothd"), stderr=subprocess.STDOUT)
        self.note("bluetoothd", pid=self.bluetoothd.pid)

    def kill_bluetoothd(self):
        self.bluetoothd.kill()
        self.bluetoothd.wait()

    @property
    def dongle(self):
        return self.dongles[0]

    def plug(self, number=0):
        dongle = radio.Dongle(radio.Vhci(self.note), self.air, radio.DONGLES[number])
        dongle.most_links = self.scenario.most_links
        for strap in self.straps:
            # Further dongles stand farther away.
            dongle.signal[strap.address.to_string(False)] = -45 - 4 * (strap.index % 10) - 20 * number
        self.dongles[number] = dongle

    def unplug(self, number=0):
        dongle = self.dongles[number]
        dongle.forget()
        self.air.remove_controller(dongle)
        dongle.host = None
        dongle.port.close()
        self.note("unplugged")

    async def run(self, *command):
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        said, _ = await process.communicate()
        return process.returncode, said.decode(errors="replace")

    async def powered(self):
        _, said = await self.run(
            "dbus-send", "--system", "--print-reply", "--dest=org.bluez", "/org/bluez/hci0",
            "org.freedesktop.DBus.Properties.Get", "string:org.bluez.Adapter1", "string:Powered")
        return "boolean true" in said

    async def until_powered(self):
        await self.until(self.powered, ADAPTER_SECONDS, "bluetoothd has no adapter that is switched on")

    async def until(self, condition, seconds, failing):
        deadline = time.monotonic() + seconds
        while True:
            answer = condition()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            if time.monotonic() > deadline:
                raise Failed(f"after {seconds} s: {failing}")
            await asyncio.sleep(0.25)

    # -- the gateway ---------------------------------------------------------------------------------------------

    def configure(self):
        level = "debug" if self.scenario.debug else "info"
        settings = f'{SETTINGS}[log]\nlevel = "{level}"\n{self.scenario.settings(self.straps)}'
        CONFIG.write_text(settings, encoding="utf-8")
        shutil.copy(CONFIG, SHARE / "fogbeat.toml")

    def start_gateway(self):
        self.gateway = subprocess.Popen(
            [str(SHARE / "fogbeat"), "run", "--config", str(CONFIG)],
            stdout=self.log("fogbeat"), stderr=subprocess.STDOUT)
        self.note("gateway", pid=self.gateway.pid)
        self.spawn(self._watch_usage(self.gateway.pid))

    async def _watch_usage(self, pid):
        ticks = os.sysconf("SC_CLK_TCK")
        while True:
            try:
                after_name = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
            except OSError:
                return
            resident = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")]
            if not resident:
                return  # a zombie
            cpu = (int(after_name[11]) + int(after_name[12])) / ticks
            self.note("usage", pid=pid, cpu_s=cpu, rss_kb=resident[0])
            await asyncio.sleep(5)

    def kill_gateway(self):
        self.gateway.kill()
        self.gateway.wait()

    async def fogbeat(self, *command):
        """Exit code and standard output of a command."""
        with self.log("commands") as log:
            process = await asyncio.create_subprocess_exec(
                str(SHARE / "fogbeat"), *command, "--config", str(CONFIG), stdout=asyncio.subprocess.PIPE, stderr=log)
            said, _ = await process.communicate()
        return process.returncode, said.decode()

    async def on_terminal(self, *command):
        """What a command writes to a terminal of 24 lines of 80 characters."""
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = await asyncio.create_subprocess_exec(
            str(SHARE / "fogbeat"), *command, "--config", str(CONFIG), stdin=its, stdout=its, stderr=its)
        os.close(its)
        written = b""
        while True:
            try:
                piece = await asyncio.to_thread(os.read, ours, 4096)
            except OSError:
                break  # the other side is closed
            if not piece:
                break
            written += piece
        os.close(ours)
        await process.wait()
        return written.decode(errors="replace")

    async def scan(self, seconds):
        """The last that `fogbeat scan` said of everybody on the air, by address."""
        code, said = await self.fogbeat("scan", "--json", "--for", f"{seconds}s")
        self.check(code == 0, f"`fogbeat scan` ended with {code}, see commands.log")
        rows = [json.loads(line) for line in said.splitlines()]
        self.note("scan", rows=rows)
        return {row["address"]: row for row in rows}

    async def bluetooth(self):
        """What `fogbeat status` says of Bluetooth; nothing while no gateway answers."""
        code, said = await self.fogbeat("status", "--json")
        return json.loads(said).get("bluetooth", {}) if code == 0 else {}

    def said(self):
        """The gateway's log."""
        return (SHARE / "fogbeat.log").read_text()

    def check(self, right, told):
        if not right:
            raise Failed(told)

    async def ask_status(self):
        code, said = await self.fogbeat("status", "--json")
        (SHARE / "status.json").write_text(said)
        self.note("status", code=code)

    async def last_words(self):
        """After a failure: what whoever looks for the cause will ask for."""
        with contextlib.suppress(Exception):
            await self.ask_status()
            (SHARE / "objects.txt").write_text((await self.run("bluetoothctl", "devices"))[1])
            self.gateway.send_signal(signal.SIGTERM)
            await asyncio.sleep(5)

    async def stop_gateway(self):
        await self.ask_status()
        self.gateway.send_signal(signal.SIGTERM)
        await self.until(lambda: self.gateway.poll() is not None, STOP_SECONDS, "the gateway does not stop")
        self.note("stopped", code=self.gateway.returncode)

    # -- what scenarios say --------------------------------------------------------------------------------------

    async def until_streaming(self, readings=3):
        """Every strap has a subscriber and has sent some."""
        await self.until_heard(self.straps, readings)
        self.note("streaming")

    async def until_heard(self, straps, readings=3):
        before = [strap.sent for strap in straps]

        def all_sent():
            return all(strap.sent >= start + readings for strap, start in zip(straps, before))

        await self.until(all_sent, STREAMING_SECONDS, "not every strap is listened to")

    async def steady(self, seconds=None):
        await asyncio.sleep(self.scenario.steady if seconds is None else seconds)

    @contextlib.asynccontextmanager
    async def cause(self, name, straps, grace=0.0):
        """A fault, from its begin to its end. What `straps` sent up to `grace` seconds before it may be lost with it:
        it was on its way through something that is then killed."""
        self.note("cause", name=name, straps=[strap.index for strap in straps], grace=grace)
        yield
        self.note("cause_end", name=name)

    def broadcasters(self):
        scenario = self.scenario
        for index in range(scenario.broadcast):
            self.broadcasting.append(self.spawn(PolarStrap(index, self.dongle, self.note).run()))
        for index in range(scenario.passers_by):
            self.broadcasting.append(self.spawn(PasserBy(index, self.dongle).run()))
        self.note("streaming")

    async def quiet(self):
        """The straps hold their breath, so that nothing is on its way when the gateway is stopped."""
        for strap in self.straps:
            strap.silent = True
        for task in self.broadcasting:
            task.cancel()
        self.note("quiet")
        await asyncio.sleep(QUIET_SECONDS)

    def hand_over(self):
        if self.monitor:
            self.monitor.send_signal(signal.SIGINT)
            self.monitor.wait()
            shutil.copy(MONITOR, SHARE / MONITOR.name)
        if LAKE.exists():
            shutil.copytree(LAKE, SHARE / "lake")
        (SHARE / "kernel.log").write_bytes(subprocess.run(["dmesg"], capture_output=True, check=False).stdout)
        self.record.flush()

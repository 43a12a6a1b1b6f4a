"""fogbeat beside other gateways: the same load, the same faults, one table. See run.sh."""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import peers
import wire
from disk import Disk
from load import Load
from sink import Cloud

DEVICES = 40
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
# The cloud is waited for as long as something still comes, and at most so long.
QUIET, MOST_DRAIN = 25, 240


class Stack:
    """The running processes of a peer."""

    def __init__(self, peer, disk, place):
        self.peer, self.disk, self.place = peer, disk, place
        self.children, self.cpu, self.gone, self.peak = [], {}, 0.0, 0
        self.ending = threading.Event()
        self.sampler = threading.Thread(target=self.sample, daemon=True)
        self.sampler.start()

    def start(self):
        """Starts everything; returns the seconds until a CONNECT is taken, and by all that a reading passes through."""
        begun = time.monotonic()
        environment = {**os.environ, **self.peer.environment(self.disk.mount)}
        log = open(self.place / "log", "ab")
        for command in self.peer.prepare(self.disk.mount, self.place):
            child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment,
                                     cwd=self.place, start_new_session=True)
            self.children.append(child)
            if len(self.children) == 1:
                took = self.answers(begun)
        while self.peer.inner > self.connected():
            if time.monotonic() > begun + 60:
                raise SystemExit(f"{self.peer.name} does not connect: see {self.place}/log")
            time.sleep(0.01)
            took = time.monotonic() - begun
        return took

    @staticmethod
    def connected():
        """Connections to IN whose other end is there (state 1), wearables' aside: before there are any."""
        lines = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
        ends = [(line.split()[2], line.split()[3]) for line in lines]
        return sum(end.endswith(f":{peers.IN:04X}") and state == "01" for end, state in ends)

    def answers(self, begun):
        while time.monotonic() < begun + 60:
            try:
                with socket.create_connection(("127.0.0.1", peers.IN), 1) as probe:
                    probe.settimeout(5)
                    probe.sendall(wire.connect("probe"))
                    if probe.recv(4)[:1] == b"\x20":
                        return time.monotonic() - begun
            except OSError:
                time.sleep(0.002)
        raise SystemExit(f"{self.peer.name} does not start: see {self.place}/log")

    def tree(self):
        """The process ids of all children and theirs."""
        below = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    below.setdefault(int(pathlib.Path(f"/proc/{entry}/stat").read_text().rsplit(") ", 1)[1].split()[1]), []).append(int(entry))
                except OSError:
                    pass
        found, todo = [], [child.pid for child in self.children]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += below.get(pid, [])
        return found

    def look(self):
        resident = 0
        for pid in self.tree():
            try:
                stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
            except OSError:
                continue
            self.cpu[pid, stat[19]] = (int(stat[11]) + int(stat[12])) / TICK
            resident += int(stat[21]) * PAGE
        self.peak = max(self.peak, resident)

    def sample(self):
        while not self.ending.wait(0.25):
            self.look()

    def signal(self, number):
        for pid in self.tree():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def kill(self):
        self.look()
        self.signal(signal.SIGKILL)
        for child in self.children:
            child.wait()
        self.children.clear()

    def end(self):
        self.look()
        self.ending.set()
        self.sampler.join()
        self.signal(signal.SIGTERM)
        for child in self.children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
        return sum(self.cpu.values())


def trial(peer, rate, phase, place):
    """One peer through all phases; returns its figures."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    disk = Disk(place)
    cloud = Cloud(peers.OUT, peer.form)
    cloud.up()
    stack = Stack(peer, disk, place)
    try:
        before = disk.written()
        started = stack.start()
        time.sleep(2)  # subscriptions
        load = Load(peers.IN, DEVICES, rate)
        time.sleep(phase)  # all is well
        cloud.down()
        time.sleep(phase)  # an outage
        stack.kill()
        time.sleep(1)
        stack.start()  # a kill in the middle of it
        time.sleep(phase)
        size = disk.used()
        cloud.up()
        time.sleep(phase)  # the backlog goes out
        # A power cut: what the device has not got by now it never gets. Stopped first, so that nothing is acknowledged after.
        stack.signal(signal.SIGSTOP)
        time.sleep(0.2)
        disk.cut()
        stack.kill()
        disk.restore()
        stack.start()
        time.sleep(phase)
        load.quiet()
        time.sleep(phase)
        written = disk.written() - before
        last, since, begun = -1, time.monotonic(), time.monotonic()
        while time.monotonic() - since < QUIET and time.monotonic() - begun < MOST_DRAIN:
            time.sleep(1)
            now = cloud.count()
            if now != last:
                last, since = now, time.monotonic()
        still = time.monotonic() - since < QUIET
        acknowledged = {(name, stamp) for name, stamps in load.end().items() for stamp in stamps}
        seen, carried = cloud.end()
        cpu = stack.end()
    finally:
        stack.signal(signal.SIGKILL)
        time.sleep(0.5)
        disk.remove()
    arrived = max(len(seen), 1)
    return {
        "peer": peer.name,
        "rate": rate,
        "acknowledged": len(acknowledged),
        "lost": len(acknowledged - seen.keys()),
        "duplicates": sum(seen.values()) - len(seen),
        "cpu_us": cpu / max(len(acknowledged), 1) * 1e6,
        "peak_mb": stack.peak / 1e6,
        "written": written / max(len(acknowledged), 1),
        "size_mb": size / 1e6,
        "start_ms": started * 1000,
        "sent": carried / arrived,
        "note": peer.note + ("; readings still arrived when the run ended, so that not all of its lost are" if still else ""),
    }


# Heading, key, how it is written; less is better in all of them.
COLUMNS = [
    ("acknowledged, lost", "lost", "{:.0f}"),
    ("duplicates", "duplicates", "{:.0f}"),
    ("CPU/reading, us", "cpu_us", "{:.0f}"),
    ("peak RSS, MB", "peak_mb", "{:.1f}"),
    ("written/reading, B", "written", "{:.0f}"),
    ("on disk after the outage, MB", "size_mb", "{:.1f}"),
    ("start, ms", "start_ms", "{:.0f}"),
    ("sent/reading, B", "sent", "{:.1f}"),
]


def table(figures):
    lines = []
    for rate in sorted({row["rate"] for row in figures}):
        rows = [row for row in figures if row["rate"] == rate]
        lines += [f"\n{DEVICES} devices at {rate:g} Hz, QoS 1 (**best** of each column)\n"]
        lines += ["| | acknowledged | " + " | ".join(head for head, _, _ in COLUMNS) + " |"]
        lines += ["|---" * (len(COLUMNS) + 2) + "|"]
        best = {key: min(row[key] for row in rows) for _, key, _ in COLUMNS}
        for row in rows:
            cells = [form.format(row[key]) for _, key, form in COLUMNS]
            cells = [f"**{cell}**" if row[key] == best[key] else cell for cell, (_, key, _) in zip(cells, COLUMNS)]
            lines += [f"| {row['peer']} | {row['acknowledged']} | " + " | ".join(cells) + " |"]
        ours = next((row for row in rows if row["peer"] == "fogbeat"), None)
        for head, key, form in COLUMNS if ours else []:
            better = [f"{row['peer']} ({form.format(row[key])})" for row in rows if row[key] < ours[key]]
            if better:
                lines += [f"\nBetter than fogbeat in \"{head}\" ({form.format(ours[key])}): {', '.join(better)}."]
    lines += [""] + [f"- {row['peer']}: {row['note']}" for row in figures if row["rate"] == figures[0]["rate"]]
    return "\n".join(lines)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--place", type=pathlib.Path, required=True)
    options.add_argument("--peers", default=",".join(peers.ALL))
    options.add_argument("--rates", default="1,100")
    options.add_argument("--phase", type=float, default=20)
    options.add_argument("--json", type=pathlib.Path)
    given = options.parse_args()
    figures = json.loads(given.json.read_text()) if given.json and given.json.exists() else []
    for rate in map(float, given.rates.split(",")):
        for name in given.peers.split(","):
            peer = peers.ALL[name]()
            if any(row["peer"] == peer.name and row["rate"] == rate for row in figures):
                continue
            print(f"{peer.name} at {rate:g} Hz ...", file=sys.stderr, flush=True)
            figures.append(trial(peer, rate, given.phase, given.place / f"run-{name}"))
            print(json.dumps(figures[-1]), file=sys.stderr, flush=True)
            if given.json:
                given.json.write_text(json.dumps(figures, indent=1))
    order = [peer.name for peer in peers.ALL.values()]
    print(table(sorted(figures, key=lambda row: order.index(row["peer"]))))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The judge: holds the delivered files against what the straps say they sent. Nothing of fogbeat's is believed.

    tests/bluetooth/score.py target/bluetooth/runs/short

Every notification that a connected strap sent is delivered once, as it was, at about its time, under the right name.
Excused is what a strap sent between a fault (and what was in flight then, where a process was killed) and the first
reading of it that arrived after the fault's end; that must come within 15 s. Of broadcasts, 99 % of the changes of a
frame counter that a monitor beside the gateway saw are delivered, none twice, and nothing of a passer-by.

All times are the machine's own clock. An emulated machine on a busy host can stand still for seconds: where that
explains a late recovery, the run says nothing ("void") and is no pass either. What is right does not depend on speed.
"""
import collections
import dataclasses
import json
import math
import pathlib
import sys

import btsnoop
import delivered

RECOVERY_SECONDS = 15.0
# Between the second in which a strap measured and the reading's time: the bus, and the place of a beat within it.
EARLY_SECONDS, LATE_SECONDS = 2.0, 5.0
BROADCAST_SHARE = 0.99
# A strap that was asked for one measurement a second must have made nearly all of them.
LEAST_RATE = 0.9
# Silence between two readings of a strap: shorter than this none may be told, longer than that it must be.
NO_GAP_SECONDS, GAP_SECONDS = 2.0, 4.0
# A machine that stands still for this long between two readings brings the second late enough to look like a loss.
STALLED_SECONDS = 1.0
# Standing still for this long in sum within a recovery makes it void.
STILL_SECONDS = 2.0
# The kernel waits two seconds for an answer of its controller, which is a process of the machine here.
HCI_TIMEOUT = "tx timeout"
# What a strap sent so shortly before it goes may still be on its way in a machine that stands still.
IN_FLIGHT_SECONDS = 3.0


@dataclasses.dataclass
class Verdict:
    faults: list = dataclasses.field(default_factory=list)
    void: list = dataclasses.field(default_factory=list)
    figures: dict = dataclasses.field(default_factory=dict)
    # The kernel gave up waiting for the simulated dongle: it is out of step with it from then on, and what takes long
    # or never happens is nobody's fault but the machine's.
    stalled: bool = False

    def slow(self, told):
        (self.void if self.stalled else self.faults).append(told)

    def late(self, record, begin, end, told):
        """Something came late: by whose fault is told by whether the machine stood still in between."""
        still = record.still(begin, end)
        if still >= STALLED_SECONDS:
            self.void.append(f"{told}; the machine stood still for {still:.1f} s")
        else:
            self.slow(told)

    @property
    def word(self):
        return "FAILED" if self.faults else "VOID" if self.void else "passed"


@dataclasses.dataclass
class Cause:
    name: str
    straps: list
    begin: float
    grace: float
    end: float | None = None


class Record:
    """The rig's record of a run, sorted by kind."""

    def __init__(self, events):
        self.of = collections.defaultdict(list)
        for event in events:
            self.of[event["what"]].append(event)
        plan = (self.of["plan"] or [{}])[0]
        self.devices = plan.get("devices", {})
        self.passers_by = plan.get("passers_by", 0)
        self.causes = []
        for event in events:
            if event["what"] == "cause":
                self.causes.append(Cause(event["name"], event["straps"], event["at"], event["grace"]))
            elif event["what"] == "cause_end" and self.causes:
                self.causes[-1].end = event["at"]

    def still(self, begin, end):
        """Seconds within this time in which the machine stood still: it woke late, or waited for the host's processors,
        which the host counts second by second."""
        late = sum(event["seconds"] for event in self.of["lag"] if begin <= event["at"] <= end + event["seconds"])
        starved = sum(event["seconds"] for event in self.of["starved"] if begin <= event["at"] <= end + 1)
        return min(max(late, starved), end - begin)


def judge(events, lines, adverts=None, log="", kernel=""):
    verdict, record = Verdict(stalled=HCI_TIMEOUT in kernel), Record(events)
    for event in record.of["failed"]:
        verdict.slow(event["reason"])
    if not record.of["stopped"]:
        verdict.slow("the run has no end")
    verdict.faults += [f"the gateway's exit code is {event['code']}" for event in record.of["stopped"] if event["code"]]
    verdict.faults += [f"strap {event['strap']} was written to: {event['hex']}" for event in record.of["control_point"]]
    verdict.faults += delivered.faults_of_ids(lines)
    for line in lines:
        if line.get("type") == "gap" and line.get("cause") == "lost":
            verdict.faults.append(f"the gateway lost {line['first_seq']} to {line['last_seq']}")
    judge_logs(verdict, record, log, kernel)

    readings = [line for line in lines if "type" not in line]
    for device in {line.get("device") for line in readings} - record.devices.keys():
        verdict.faults.append(f"{device} is stored and nobody of this scenario")
    readings = [line for line in readings if line.get("device") in record.devices]
    if adverts is None:
        judge_connected(verdict, record, readings)
    else:
        judge_broadcast(verdict, record, readings, adverts)
    usage(verdict, record)
    return verdict


def judge_logs(verdict, record, log, kernel):
    if "panicked" in log:
        verdict.faults.append("the gateway panicked, see fogbeat.log")
    if "kernel BUG" in kernel:
        verdict.faults.append("the kernel's Bluetooth died, see kernel.log")
    warnings = [line for line in log.splitlines() if " WARN " in line or " ERROR " in line]
    verdict.figures["warnings"] = len(warnings)
    if warnings and not record.causes:
        verdict.faults.append(f"a warning although nothing was wrong: {warnings[0].strip()}")


def judge_connected(verdict, record, readings):
    sent = {(event["strap"], event["n"]): event for event in record.of["sent"]}
    arrived, delays = {}, []
    for line in readings:
        key = (record.devices[line["device"]], line.get("energy_kj"))
        event = sent.get(key)
        if event is None:
            verdict.faults.append(f"{line['device']} never sent what {line['id']} says")
            continue
        if key in arrived:
            verdict.faults.append(f"{line['device']} number {key[1]} is there twice: {arrived[key]['id']}, {line['id']}")
            continue
        arrived[key] = line
        # A machine that stood still sends late; the heart did not wait.
        delays.append(delivered.seconds(line) - (event["at"] - event.get("late", 0.0)))
        name = f"{line['device']} {line['id']}"
        verdict.faults += [f"{name}: {fault}" for fault in differences(line, event)]
        told = f"{name}: its time is {delays[-1]:.3f} s after it was sent"
        if delays[-1] > LATE_SECONDS:
            verdict.late(record, event["at"], delivered.seconds(line), told)
        elif delays[-1] < -EARLY_SECONDS:
            verdict.faults.append(told)

    outages = [judge_recovery(verdict, record, cause, strap, sent, arrived)
               for cause in record.causes for strap in cause.straps]
    excused = 0
    # A scenario that failed stops the gateway while straps send.
    broken = min((event["at"] for event in record.of["failed"]), default=math.inf)
    for key, event in sorted(sent.items()):
        if key in arrived or event["at"] >= broken - IN_FLIGHT_SECONDS:
            continue
        if any(strap == key[0] and begin <= event["at"] < end for strap, begin, end in outages):
            excused += 1
            continue
        told = f"strap {key[0]} number {key[1]} was sent at {event['at']:.3f} and is not there"
        last_words = [cause for cause in record.causes
                      if key[0] in cause.straps and cause.begin - IN_FLIGHT_SECONDS <= event["at"] < cause.begin]
        if last_words:
            # A bluetoothd that hears of the end of a connection before it had time to read what came over it.
            verdict.late(record, event["at"], last_words[0].begin + STILL_SECONDS, told)
        else:
            verdict.faults.append(told)
    judge_gaps(verdict, record, sent, arrived)
    judge_rate(verdict, record)
    verdict.figures.update({
        "straps": len(record.devices), "sent": len(sent), "delivered": len(arrived), "lost in faults": excused,
        "intervals": sum(len(line.get("rr_ms", [])) for line in readings),
        "delay s": [round(min(delays), 3), round(sorted(delays)[len(delays) // 2], 3), round(max(delays), 3)]
        if delays else None,
    })


def differences(line, event):
    """How a reading differs from the measurement it goes back to."""
    if line.get("source") != "gatt":
        yield f"source {line.get('source')}, not gatt"
    if line.get("bpm") != event["bpm"]:
        yield f"bpm {line.get('bpm')}, sent {event['bpm']}"
    if delivered.ticks(line) != event["rr"]:
        yield f"intervals {line.get('rr_ms')}, sent {event['rr']} in 1/1024 s"
    if line.get("contact") is not True:
        yield "contact is not told"
    if "reason" in line:
        yield f"doubted ({line['reason']}) without a reason to"


def judge_recovery(verdict, record, cause, strap, sent, arrived):
    """The time in which the strap's measurements may be missing."""
    if cause.end is None:
        verdict.faults.append(f"{cause.name}: never ended")
        return strap, cause.begin - cause.grace, cause.begin
    after = [event["at"] for key, event in sent.items() if key[0] == strap and key in arrived and event["at"] >= cause.end]
    if not after:
        verdict.slow(f"{cause.name}: strap {strap} never came back")
        return strap, cause.begin - cause.grace, cause.end
    took = min(after) - cause.end
    recoveries = verdict.figures.setdefault("recovery s", [])
    recoveries.append(round(took, 1))
    if took > RECOVERY_SECONDS:
        still = record.still(cause.end, min(after))
        late = f"{cause.name}: strap {strap} came back after {took:.1f} s"
        if still >= STILL_SECONDS and took - still <= RECOVERY_SECONDS:
            verdict.void.append(f"{late}, of which the machine stood still for {still:.1f} s")
        else:
            verdict.slow(late)
    return strap, cause.begin - cause.grace, min(after)


def judge_gaps(verdict, record, sent, arrived):
    """`gap_ms` is told where something of a strap was not heard, is about right, and is told nowhere else. What lies
    between two starts of the gateway shows in the numbers."""
    before = None
    for key in sorted(arrived):
        line, at = arrived[key], sent[key]["at"]
        told, name = line.get("gap_ms"), f"{line['device']} {line['id']}"
        if before and before[0] == key[0] and before[1] == run_of_gateway(line):
            silence, arrival = at - before[2], max(at, delivered.seconds(line))
            wrong = None
            if told is None and silence > GAP_SECONDS:
                wrong = f"{silence:.1f} s of silence before it are not told"
            elif told is not None and silence < NO_GAP_SECONDS:
                wrong = f"a gap of {told} ms is told, {silence:.1f} s after the one before"
            elif told is not None and abs(told / 1000 - silence) > LATE_SECONDS:
                wrong = f"a gap of {told} ms is told, it was {silence:.1f} s"
            if wrong:
                verdict.late(record, before[2], arrival, f"{name}: {wrong}")
        before = key[0], run_of_gateway(line), at


def run_of_gateway(line):
    """Every start opens a new generation of numbers; within one day none is sealed by its size here."""
    return int(line["id"].rpartition("-")[2]) >> 32


def judge_rate(verdict, record):
    """Straps that were not listened to, or hardly, prove nothing."""
    if not record.of["streaming"] or not record.of["quiet"]:
        return
    # Without faults from the first moment to the last; with faults before the first of them.
    begin = record.of["streaming"][0]["at"]
    end = record.causes[0].begin if record.causes else record.of["quiet"][0]["at"]
    made = collections.Counter(event["strap"] for event in record.of["sent"] if begin <= event["at"] < end)
    for strap in record.devices.values():
        if made[strap] < LEAST_RATE * (end - begin) - 1:
            still = record.still(begin, end)
            told = f"strap {strap} was listened to {made[strap]} times in {end - begin:.0f} s"
            if made[strap] >= LEAST_RATE * (end - begin - still) - 1:
                verdict.void.append(f"{told}, of which the machine stood still for {still:.1f} s")
            else:
                verdict.faults.append(told)


def judge_broadcast(verdict, record, readings, adverts):
    strap_of = {f"C4:A0:00:00:00:{index + 1:02X}": index for index in record.devices.values()}
    heard, last, passers, reports = collections.defaultdict(list), {}, set(), 0
    for at, address, data in adverts:
        reports += 1
        if address not in strap_of:
            passers.add(address)
            continue
        frame = btsnoop.polar_frame(data)
        if frame and frame[0] != last.get(address):
            heard[strap_of[address]].append([at, frame[1], False])
            last[address] = frame[0]
    # A monitor that is flooded drops packets that the gateway got: what was broadcast is the straps' own record.
    made = collections.defaultdict(list)
    for event in record.of["frame"]:
        made[event["strap"]].append([event["at"], event["bpm"], False])
    delays, unseen = [], 0
    for line in sorted(readings, key=delivered.seconds):
        if line.get("source") != "advert":
            verdict.faults.append(f"{line['id']}: source {line.get('source')}, not advert")
        at, strap = delivered.seconds(line), record.devices[line["device"]]
        seen = take(heard.get(strap, ()), line.get("bpm"), at)
        if take(made[strap], line.get("bpm"), at) is None:
            verdict.faults.append(f"{line['id']}: {line['device']} broadcast no {line.get('bpm')} then, or it is told twice")
        elif seen is None:
            unseen += 1
        else:
            delays.append(at - seen)
    # The first frame of a strap is a change from nothing: it may be delivered, but is not asked for.
    changes = [frame for frames in heard.values() for frame in frames[1:]]
    told = sum(frame[2] for frame in changes)
    share = told / len(changes) if changes else 0.0
    begin, end = record.of["streaming"][0]["at"], record.of["quiet"][0]["at"]
    verdict.figures.update({
        "straps": len(heard), "passers-by": len(passers), "reports/s": round(reports / (end - begin), 1),
        "changes": len(changes), "delivered": told, "unseen by the monitor": unseen, "share %": round(100 * share, 2),
        "delay s": [round(min(delays), 3), round(sorted(delays)[len(delays) // 2], 3), round(max(delays), 3)]
        if delays else None,
    })
    if len(heard) < len(record.devices):
        verdict.faults.append(f"only {len(heard)} of {len(record.devices)} straps were heard")
    if len(passers) < record.passers_by:
        verdict.void.append(f"only {len(passers)} of {record.passers_by} passers-by came through to the host")
    if share < BROADCAST_SHARE:
        short = f"{told} of {len(changes)} changes of a frame counter are delivered: {100 * share:.2f} %"
        # Behind a machine that stands still BlueZ tells the last of several advertisements only.
        behind = sum(not there and record.still(at - STILL_SECONDS, at + STILL_SECONDS) >= STALLED_SECONDS
                     for at, _, there in changes)
        if told >= BROADCAST_SHARE * (len(changes) - behind):
            verdict.void.append(f"{short}; {behind} fell into times in which the machine stood still")
        else:
            verdict.faults.append(short)


def take(frames, bpm, at):
    """Marks the first frame of this rate at about this time that is not taken yet; its time, if there is one."""
    for frame in frames:
        if not frame[2] and frame[1] == bpm and -EARLY_SECONDS <= at - frame[0] <= LATE_SECONDS:
            frame[2] = True
            return frame[0]
    return None


def usage(verdict, record):
    """CPU and memory of the gateway while it listened; the CPU is an emulated one."""
    if not record.of["streaming"] or not record.of["quiet"]:
        return
    begin, end = record.of["streaming"][0]["at"], record.of["quiet"][0]["at"]
    samples = [event for event in record.of["usage"] if begin <= event["at"] <= end]
    if len(samples) >= 2 and samples[0]["pid"] == samples[-1]["pid"]:
        spent = samples[-1]["cpu_s"] - samples[0]["cpu_s"]
        verdict.figures["cpu %"] = round(100 * spent / (samples[-1]["at"] - samples[0]["at"]), 1)
    if samples:
        verdict.figures["memory MB"] = round(max(event["rss_kb"] for event in samples) / 1024, 1)
    verdict.figures["stood still s"] = round(record.still(begin, end), 1)


def score(run):
    """The verdict on a run's directory."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    if (run / "host.jsonl").exists():
        events += [json.loads(line) for line in (run / "host.jsonl").read_text().splitlines()]
    snoop = run / "btmon.snoop"
    return judge(
        events, list(delivered.lines(run / "lake")),
        btsnoop.advertisements(snoop) if any(event["what"] == "frame" for event in events) else None,
        *((run / name).read_text(errors="replace") if (run / name).exists() else "" for name in ("fogbeat.log", "kernel.log")),
    )


def told(verdict, most=12):
    """The verdict in words."""
    yield f"{verdict.word}: " + ", ".join(f"{name} {value}" for name, value in verdict.figures.items())
    for fault in (verdict.faults + verdict.void)[:most]:
        yield f"  {fault}"
    if len(verdict.faults) > most:
        yield f"  and {len(verdict.faults) - most} more"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = score(pathlib.Path(sys.argv[1]))
    print("\n".join(told(found)))
    sys.exit(found.word != "passed")

#!/usr/bin/env python3
"""The judge can say no: sound runs pass, and runs with one fault each do not. Needs no machine.

    python3 tests/bluetooth/test_score.py
"""
import datetime
import gzip
import json
import pathlib
import struct
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "guest")]
sys.dont_write_bytecode = True

import btsnoop  # noqa: E402
import delivered  # noqa: E402
import score  # noqa: E402

START = 1_790_000_000.0
STREAMING, QUIET = START + 2, START + 100


def stamp(seconds):
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def connected():
    """Two straps, a hundred measurements each, all delivered 20 ms later."""
    events = [
        {"at": START, "what": "plan", "scenario": "test", "devices": {"strap-00": 0, "strap-01": 1}, "passers_by": 0},
        {"at": STREAMING, "what": "streaming"},
    ]
    lines = []
    for n in range(1, 101):
        for strap in (0, 1):
            at, intervals = START + n - 0.5, [800 + n, 833][:n % 3]
            events.append({"at": at, "what": "sent", "strap": strap, "n": n, "bpm": 60 + n % 9, "rr": intervals})
            line = {"id": f"spool-{len(lines)}", "device": f"strap-{strap:02}", "source": "gatt", "time": stamp(at + 0.02),
                    "bpm": 60 + n % 9, "contact": True, "energy_kj": n}
            if intervals:
                line["rr_ms"] = [round(ticks * 1000 / 1024, 3) for ticks in intervals]
            lines.append(line)
    events += [
        {"at": QUIET, "what": "quiet"},
        {"at": QUIET + 6, "what": "stopped", "code": 0},
    ]
    return sorted(events, key=lambda event: event["at"]), lines


def away(events, lines, strap=0, begin=START + 40.0, end=START + 50.0, back=START + 55.0, grace=0.0):
    """A fault: nothing of the strap is delivered from its begin until `back`."""
    events += [
        {"at": begin, "what": "cause", "name": "fault", "straps": [strap], "grace": grace},
        {"at": end, "what": "cause_end", "name": "fault"},
    ]
    events.sort(key=lambda event: event["at"])
    first = min(event["n"] for event in events
                if event["what"] == "sent" and event["strap"] == strap and event["at"] >= back) if back < QUIET else None
    gone = {event["n"] for event in events
            if event["what"] == "sent" and event["strap"] == strap and begin - grace <= event["at"] < back}
    lines[:] = [line for line in lines if line["device"] != f"strap-{strap:02}" or line["energy_kj"] not in gone]
    for line in lines:
        if line["device"] == f"strap-{strap:02}" and line["energy_kj"] == first:
            line["gap_ms"] = int(1000 * (len(gone) + 1))


class Connected(unittest.TestCase):
    def setUp(self):
        self.events, self.lines = connected()

    def verdict(self, **more):
        return score.judge(self.events, self.lines, **more)

    def refused(self, *words, **more):
        verdict = self.verdict(**more)
        self.assertEqual(verdict.word, "FAILED")
        told = "\n".join(verdict.faults)
        for word in words:
            self.assertIn(word, told)

    def test_a_sound_run_passes(self):
        verdict = self.verdict()
        self.assertEqual((verdict.word, verdict.faults), ("passed", []))
        self.assertEqual((verdict.figures["sent"], verdict.figures["delivered"]), (200, 200))

    def test_lines_of_the_account_are_no_readings(self):
        self.lines.append({"id": "spool-e", "type": "end", "generation": 0, "count": 200})
        self.assertEqual(self.verdict().word, "passed")

    def test_one_reading_missing(self):
        del self.lines[77]
        self.refused("is not there")

    def test_the_last_reading_missing(self):
        del self.lines[-1]
        self.refused("number 100", "is not there")

    def test_one_reading_twice_under_two_ids(self):
        self.lines.append(self.lines[5] | {"id": "spool-900"})
        self.refused("is there twice")

    def test_one_line_twice(self):
        self.lines.append(dict(self.lines[5]))
        self.refused("id spool-5 is there 2 times")

    def test_one_id_with_two_contents(self):
        self.lines[6]["id"] = self.lines[5]["id"]
        self.refused("two contents")

    def test_an_interval_off_by_one_tick(self):
        line = next(line for line in self.lines if "rr_ms" in line)
        line["rr_ms"] = [round(line["rr_ms"][0] + 1000 / 1024, 3), *line["rr_ms"][1:]]
        self.refused("intervals")

    def test_an_interval_rounded_to_milliseconds(self):
        line = next(line for line in self.lines if line.get("rr_ms", [0])[0] % 1)
        line["rr_ms"] = [float(round(value)) for value in line["rr_ms"]]
        self.refused("intervals")

    def test_intervals_left_out(self):
        next(line for line in self.lines if "rr_ms" in line).pop("rr_ms")
        self.refused("intervals")

    def test_another_rate(self):
        self.lines[8]["bpm"] += 1
        self.refused("bpm")

    def test_the_rate_left_out(self):
        del self.lines[8]["bpm"]
        self.refused("bpm None")

    def test_contact_left_out(self):
        del self.lines[8]["contact"]
        self.refused("contact")

    def test_a_doubt_without_reason(self):
        self.lines[8]["reason"] = "jump"
        self.refused("doubted (jump)")

    def test_a_reading_that_nobody_sent(self):
        self.lines.append(self.lines[8] | {"id": "spool-900", "energy_kj": 4711})
        self.refused("never sent")

    def test_a_reading_under_the_other_strap_s_name(self):
        self.lines[8]["device"] = "strap-01"
        self.refused("is there twice", "is not there")

    def test_a_stranger(self):
        self.lines.append(self.lines[8] | {"id": "spool-900", "device": "C0:FF:EE:00:00:01"})
        self.refused("nobody of this scenario")

    def test_a_time_that_is_late(self):
        self.lines[8]["time"] = stamp(delivered.seconds(self.lines[8]) + 30)
        self.refused("after it was sent")

    def test_a_time_that_is_late_in_a_machine_that_stood_still_is_void(self):
        line = self.lines[80]
        at = delivered.seconds(line)
        line["time"] = stamp(at + 7)
        self.events += [{"at": at + n, "what": "starved", "seconds": 0.9} for n in range(7)]
        self.assertEqual(self.verdict().word, "VOID")

    def test_a_time_that_is_early(self):
        self.lines[8]["time"] = stamp(delivered.seconds(self.lines[8]) - 30)
        self.refused("after it was sent")

    def test_a_time_before_a_sending_that_was_late_is_the_heart_s(self):
        sent = next(event for event in self.events if event["what"] == "sent" and event["n"] == 5)
        line = next(line for line in self.lines if line["energy_kj"] == 5)
        line["time"] = stamp(delivered.seconds(line) - 2.5)
        self.refused("after it was sent")
        sent["late"] = 1.5
        self.assertEqual(self.verdict().word, "passed")

    def test_a_time_in_another_zone_is_the_same_time(self):
        self.lines[8]["time"] = self.lines[8]["time"].replace("Z", "+00:00")
        self.assertEqual(self.verdict().word, "passed")

    def test_a_source_that_is_not_gatt(self):
        self.lines[8]["source"] = "advert"
        self.refused("source advert")

    def test_a_loss_that_the_gateway_owns_up_to(self):
        self.lines.append({"id": "spool-900", "type": "gap", "cause": "lost", "first_seq": 3, "last_seq": 4})
        self.refused("lost 3 to 4")

    def test_a_write_to_the_control_point(self):
        self.events.append({"at": START + 9, "what": "control_point", "strap": 1, "hex": "01"})
        self.refused("written to")

    def test_a_warning_although_nothing_was_wrong(self):
        self.refused("a warning", log="2026-11-24T01:00:00Z  WARN fogbeat::ble: act\n")

    def test_a_panic(self):
        self.refused("panicked", log="thread 'main' panicked at src/main.rs:1:1")

    def test_a_kernel_that_died(self):
        self.refused("kernel", kernel="[ 1.0] kernel BUG at lib/list_debug.c:56!")

    def test_an_exit_code(self):
        self.events[-1]["code"] = 70
        self.refused("exit code is 70")

    def test_a_run_that_was_cut_short(self):
        del self.events[-1]
        self.refused("no end")

    def test_a_run_that_could_not_be_played(self):
        self.events.append({"at": QUIET, "what": "failed", "reason": "after 240 s: not every strap is listened to"})
        self.refused("not every strap")

    def test_a_strap_that_was_hardly_listened_to_proves_nothing(self):
        def kept(strap, n):
            return strap != 1 or n % 3 == 0

        self.events = [event for event in self.events if event["what"] != "sent" or kept(event["strap"], event["n"])]
        self.lines = [line for line in self.lines if kept(int(line["device"][-2:]), line["energy_kj"])]
        self.refused("strap 1 was listened to")

    def test_a_strap_that_was_never_listened_to(self):
        self.events = [event for event in self.events if event.get("strap") != 1]
        self.lines = [line for line in self.lines if line["device"] != "strap-01"]
        self.refused("strap 1 was listened to 0 times")

    def test_an_empty_run(self):
        self.lines = []
        self.refused("is not there")


    def test_a_gap_that_was_none(self):
        self.lines[8]["gap_ms"] = 4000
        self.refused("a gap of 4000 ms is told")


class Faults(Connected):
    """All of the above, and more, in a run with a fault from which the strap came back in time."""

    def setUp(self):
        super().setUp()
        away(self.events, self.lines)

    def test_a_sound_run_passes(self):
        verdict = self.verdict()
        self.assertEqual((verdict.word, verdict.faults), ("passed", []))
        self.assertEqual(verdict.figures["recovery s"], [5.5])
        self.assertEqual(verdict.figures["lost in faults"], 15)

    def test_a_warning_although_nothing_was_wrong(self):
        """Something was."""
        self.assertEqual(self.verdict(log=" WARN fogbeat: the adapter is gone\n").word, "passed")

    def test_a_recovery_that_took_too_long(self):
        self.events, self.lines = connected()
        away(self.events, self.lines, back=START + 67)
        self.refused("came back after 17.5 s")

    def test_the_same_on_a_machine_that_stood_still_is_void(self):
        self.events, self.lines = connected()
        away(self.events, self.lines, back=START + 67)
        self.events.append({"at": START + 60, "what": "lag", "seconds": 4.0})
        self.assertEqual(self.verdict().word, "VOID")

    def test_the_same_on_a_host_that_was_busy_is_void(self):
        self.events, self.lines = connected()
        away(self.events, self.lines, back=START + 67)
        self.events += [{"at": START + 50 + n, "what": "starved", "seconds": 0.4} for n in range(18)]
        self.assertEqual(self.verdict().word, "VOID")

    def test_a_busy_host_excuses_nothing_but_slowness(self):
        self.events += [{"at": START + n, "what": "starved", "seconds": 0.9} for n in range(100)]
        self.assertEqual(self.verdict().word, "passed")
        del self.lines[20]
        self.refused("is not there")

    def test_last_words_in_a_machine_that_stood_still_are_void_and_nothing_before_them_is(self):
        self.events += [{"at": START + n, "what": "starved", "seconds": 0.9} for n in range(30, 50)]
        number = max(line["energy_kj"] for line in self.lines
                     if line["device"] == "strap-00" and line["energy_kj"] <= 40)
        self.lines = [line for line in self.lines if (line["device"], line["energy_kj"]) != ("strap-00", number)]
        self.assertEqual(self.verdict().word, "VOID")
        self.lines = [line for line in self.lines if (line["device"], line["energy_kj"]) != ("strap-00", 33)]
        self.refused("number 33")

    def test_standing_still_does_not_explain_everything(self):
        self.events, self.lines = connected()
        away(self.events, self.lines, back=START + 90)
        self.events.append({"at": START + 60, "what": "lag", "seconds": 4.0})
        self.refused("came back after 40.5 s")

    def test_a_strap_that_never_came_back(self):
        self.events, self.lines = connected()
        away(self.events, self.lines, back=START + 1000)
        self.refused("never came back")

    def test_a_hole_after_the_recovery(self):
        self.lines.remove(next(line for line in self.lines
                               if line["device"] == "strap-00" and line["energy_kj"] == 70))
        self.refused("number 70")

    def test_a_hole_before_the_fault(self):
        self.lines.remove(next(line for line in self.lines
                               if line["device"] == "strap-00" and line["energy_kj"] == 40))
        self.refused("number 40")

    def test_what_was_in_flight_when_a_process_was_killed_is_excused(self):
        self.events, self.lines = connected()
        away(self.events, self.lines, grace=3.0)
        self.assertEqual(self.verdict().word, "passed")

    def test_a_strap_that_was_not_concerned_is_not_excused(self):
        self.lines.remove(next(line for line in self.lines
                               if line["device"] == "strap-01" and line["energy_kj"] == 45))
        self.refused("strap 1 number 45")

    def test_a_gap_that_is_not_told(self):
        next(line for line in self.lines if "gap_ms" in line).pop("gap_ms")
        self.refused("16.0 s of silence before it are not told")

    def test_a_gap_told_wrong(self):
        next(line for line in self.lines if "gap_ms" in line)["gap_ms"] = 3000
        self.refused("it was 16.0 s")

    def test_a_gap_over_a_restart_of_the_gateway_shows_in_the_numbers(self):
        next(line for line in self.lines if "gap_ms" in line).pop("gap_ms")
        for line in self.lines:
            if line["device"] == "strap-00" and line["energy_kj"] > 50:
                line["id"] = f"spool-{(1 << 32) + int(line['id'][6:])}"
        self.assertEqual(self.verdict().word, "passed")

    def test_a_fault_that_never_ended(self):
        self.events = [event for event in self.events if event["what"] != "cause_end"]
        self.refused("never ended")

    def test_a_dongle_that_the_kernel_gave_up_on_proves_nothing(self):
        self.events, self.lines = connected()
        away(self.events, self.lines, back=START + 80.0)
        self.refused("came back after 30")
        verdict = self.verdict(kernel="Bluetooth: hci0: command 0x2005 tx timeout")
        self.assertEqual((verdict.word, verdict.faults), ("VOID", []))
        self.lines[6]["id"] = self.lines[5]["id"]
        self.refused("two contents", kernel="Bluetooth: hci0: command 0x2005 tx timeout")

    def test_a_scenario_that_broke_down(self):
        self.events, self.lines = connected()
        self.events.append({"at": QUIET - 1, "what": "failed", "reason": "not every strap is listened to"})
        del self.lines[-3:]
        self.refused("not every strap is listened to")
        self.assertEqual(len(self.verdict().faults), 1)


def broadcast():
    """Two straps with a frame a second, 60 of them, each heard twice; three passers-by."""
    events = [
        {"at": START, "what": "plan", "scenario": "test", "devices": {"polar-00": 0, "polar-01": 1}, "passers_by": 3},
        {"at": STREAMING, "what": "streaming"},
        {"at": START + 100, "what": "quiet"},
        {"at": START + 106, "what": "stopped", "code": 0},
    ]
    adverts, lines = [], []
    for n in range(1, 101):
        for strap in (0, 1):
            at, bpm = START + n - 0.5, 70 + n
            events.append({"at": at, "what": "frame", "strap": strap, "frame": n & 7, "bpm": bpm})
            data = b"\x02\x01\x04" + bytes([7, 0xFF]) + btsnoop.POLAR + bytes([0x23 | (n & 7) << 2, 0, 0, bpm])
            adverts += [(at, f"C4:A0:00:00:00:{strap + 1:02X}", data), (at + 0.5, f"C4:A0:00:00:00:{strap + 1:02X}", data)]
            lines.append({"id": f"spool-{len(lines)}", "device": f"polar-{strap:02}", "source": "advert",
                          "time": stamp(at + 0.05), "bpm": bpm, "contact": True})
        for passer in range(3):
            adverts.append((START + n, f"5E:33:22:11:00:{passer:02X}", b"\x02\x01\x1a"))
    return events, adverts, lines


class Broadcast(unittest.TestCase):
    def setUp(self):
        self.events, self.adverts, self.lines = broadcast()

    def verdict(self):
        return score.judge(self.events, self.lines, self.adverts)

    def refused(self, word):
        verdict = self.verdict()
        self.assertEqual(verdict.word, "FAILED")
        self.assertIn(word, "\n".join(verdict.faults))

    def test_a_sound_run_passes(self):
        verdict = self.verdict()
        self.assertEqual((verdict.word, verdict.faults), ("passed", []))
        self.assertEqual((verdict.figures["changes"], verdict.figures["delivered"]), (198, 198))

    def test_one_in_a_hundred_may_be_missing_and_no_more(self):
        del self.lines[50]
        self.assertEqual(self.verdict().word, "passed")
        del self.lines[60:62]
        self.refused("98.48 %")

    def test_what_fell_into_a_standstill_makes_it_void(self):
        del self.lines[50:60]
        self.refused("94.95 %")
        self.events += [{"at": START + n, "what": "starved", "seconds": 0.9} for n in range(25, 32)]
        self.assertEqual(self.verdict().word, "VOID")

    def test_what_the_monitor_dropped_is_not_invented(self):
        self.adverts = [advert for advert in self.adverts if not START + 50.4 <= advert[0] < START + 53.4]
        verdict = self.verdict()
        self.assertEqual((verdict.word, verdict.figures["unseen by the monitor"]), ("passed", 6))

    def test_a_frame_told_twice(self):
        self.lines.append(self.lines[50] | {"id": "spool-900"})
        self.refused("told twice")

    def test_a_rate_that_was_not_broadcast(self):
        self.lines[50]["bpm"] = 250
        self.refused("broadcast no 250")

    def test_a_frame_of_long_ago(self):
        self.lines[50]["time"] = stamp(delivered.seconds(self.lines[50]) + 20)
        self.refused("broadcast no")

    def test_a_passer_by_who_is_stored(self):
        self.lines.append(self.lines[50] | {"id": "spool-900", "device": "5E:33:22:11:00:01"})
        self.refused("nobody of this scenario")

    def test_fewer_passers_by_than_planned_is_void(self):
        self.events[0]["passers_by"] = 4
        self.assertEqual(self.verdict().word, "VOID")

    def test_a_strap_that_was_not_heard(self):
        self.adverts = [advert for advert in self.adverts if advert[1] != "C4:A0:00:00:00:02"]
        self.refused("only 1 of 2 straps were heard")


class Files(unittest.TestCase):
    def test_the_lake_is_read_member_by_member(self):
        with tempfile.TemporaryDirectory() as place:
            folder = pathlib.Path(place) / "readings/dt=2026-11-24/hour=01"
            folder.mkdir(parents=True)
            members = [gzip.compress(json.dumps({"id": name}).encode() + b"\n") for name in ("a-0", "a-1")]
            (folder / "rig-a-0-1.json.gz").write_bytes(b"".join(members))
            self.assertEqual([line["id"] for line in delivered.lines(pathlib.Path(place))], ["a-0", "a-1"])

    def test_a_monitor_s_file_is_read_and_a_torn_end_is_the_end(self):
        address, data = bytes([1, 0, 0, 0, 0xA0, 0xC4]), b"\x02\x01\x04"
        report = bytes([0x02, 1, 0, 1]) + address + bytes([len(data)]) + data + b"\xc4"
        packet = bytes([0x3E, len(report)]) + report
        stamp_us = btsnoop.SNOOP_2000 + int((START - btsnoop.UNIX_2000) * 1e6)

        def written(kind):
            return struct.pack(">IIIIq", len(packet), len(packet), kind, 0, stamp_us) + packet

        whole = b"btsnoop\0" + struct.pack(">II", 1, 2001) + written(btsnoop.EVENT) + written(2)
        with tempfile.TemporaryDirectory() as place:
            path = pathlib.Path(place) / "snoop"
            path.write_bytes(whole + written(btsnoop.EVENT)[:-3])
            self.assertEqual(list(btsnoop.advertisements(path)), [(START, "C4:A0:00:00:00:01", data)])
            path.write_bytes(b"something else")
            self.assertRaises(ValueError, list, btsnoop.advertisements(path))

    def test_polar_s_block_behind_others(self):
        block = bytes([7, 0xFF]) + btsnoop.POLAR + bytes([0x23 | 5 << 2, 0, 90, 91])
        self.assertEqual(btsnoop.polar_frame(b"\x02\x01\x04" + block), (5, 91))
        self.assertIsNone(btsnoop.polar_frame(b"\x02\x01\x04"))
        self.assertIsNone(btsnoop.polar_frame(b""))

    def test_every_tick_survives_three_decimals(self):
        for ticks in range(1, 65536, 7):
            self.assertEqual(delivered.ticks({"rr_ms": [round(ticks * 1000 / 1024, 3)]}), [ticks])


if __name__ == "__main__":
    unittest.main()

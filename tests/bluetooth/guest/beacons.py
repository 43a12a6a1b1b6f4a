"""Those who only broadcast: Polar straps with a frame counter, and passers-by who are nobody's business.

They go straight into the dongle as reports of advertisements; a controller each would be too much for an emulated
machine.
"""
import asyncio
import random

from radio import REPORT_BROADCAST, REPORT_CONNECTABLE, REPORT_SCAN_RESPONSE

RANDOM = 1
POLAR, HUAMI, APPLE, MICROSOFT = b"\x6b\x00", b"\x57\x01", b"\x4c\x00", b"\x06\x00"
# A strap makes a frame a second and repeats it; a phone in a pocket speaks about once a second.
FRAME_SECONDS, REPEATS, PASSER_SECONDS = 1.0, 2, 1.0
LEAST, MOST = 70, 170


def block(kind, data):
    return bytes([len(data) + 1, kind]) + data


def manufacturer(company, data):
    return block(0xFF, company + data)


def polar(contact, frame, bpm):
    """Status (battery good, contact, three bits of the frame counter, broadcast), rate code, fast and slow rate."""
    status = 0x01 | (0x02 if contact else 0) | (frame & 7) << 2 | 0x20
    return manufacturer(POLAR, bytes([status, 0x00, bpm, bpm]))


class PolarStrap:
    """Its rate goes up and down by one with each frame: neighbours differ, so that a frame can be told by its rate."""

    def __init__(self, index, dongle, note):
        self.index, self.dongle, self.note = index, dongle, note
        self.polar_id = f"A7{index:06X}"
        self.address = bytes([index + 1, 0, 0, 0, 0xA0, 0xC4])
        self.name = block(0x09, f"Polar H10 {self.polar_id}".encode())
        self.frame, self.bpm, self.step = index, LEAST + (5 * index) % (MOST - LEAST), 1

    async def run(self):
        loop = asyncio.get_running_loop()
        due = loop.time() + random.random() * FRAME_SECONDS
        while True:
            self.frame += 1
            if not LEAST <= self.bpm + self.step <= MOST:
                self.step = -self.step
            self.bpm += self.step
            self.note("frame", strap=self.index, frame=self.frame & 7, bpm=self.bpm)
            data = block(0x01, b"\x04") + polar(True, self.frame, self.bpm)
            for _ in range(REPEATS):
                await asyncio.sleep(max(0.0, due - loop.time()))
                due += FRAME_SECONDS / REPEATS
                self.dongle.hear(self.address, RANDOM, REPORT_CONNECTABLE, data, -60)
                self.dongle.hear(self.address, RANDOM, REPORT_SCAN_RESPONSE, self.name, -60)


class PasserBy:
    """A phone, a laptop or a beacon; one in eight wears a strap or a band of the kinds that are understood."""

    def __init__(self, index, dongle):
        self.dongle, self.index, self.frame = dongle, index, 0
        self.dice = random.Random(index)
        self.address = index.to_bytes(2, "little") + bytes([0x11, 0x22, 0x33, 0x5E])
        self.kind = REPORT_BROADCAST if index % 2 else REPORT_CONNECTABLE

    def data(self):
        self.frame += 1
        match self.index % 8:
            case 0 if self.index % 16:
                return polar(True, self.frame, 200 + self.frame % 20)
            case 0:
                band = bytes([0x02, 0x01, 0x00, 200 + self.frame % 20]) + bytes(14) + self.address[::-1]
                return manufacturer(HUAMI, band)
            case 1 | 2 | 3:
                return block(0x01, b"\x1a") + manufacturer(APPLE, b"\x10\x05" + self.dice.randbytes(5))
            case 4:
                return manufacturer(APPLE, b"\x02\x15" + bytes(16) + self.index.to_bytes(4, "big") + b"\xc5")
            case 5:
                return manufacturer(MICROSOFT, b"\x01\x09\x20\x02" + self.dice.randbytes(20))
            case _:
                return block(0x01, b"\x06") + block(0x16, b"\xaa\xfe\x10\x00" + self.dice.randbytes(8))

    async def run(self):
        loop = asyncio.get_running_loop()
        due = loop.time() + random.random() * PASSER_SECONDS
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += PASSER_SECONDS
            self.dongle.hear(self.address, RANDOM, self.kind, self.data(), -85)

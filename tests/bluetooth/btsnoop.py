"""Reads advertisements out of what btmon wrote: what really came from the controller, whoever listened."""
import struct

EVENT = 3  # of the monitor's kinds of packets
LE_META, ADVERTISING_REPORT = 0x3E, 0x02
# The year 2000 in microseconds, in btsnoop's count and in Unix's.
SNOOP_2000, UNIX_2000 = 0x00E03AB44A676000, 946_684_800
POLAR = b"\x6b\x00"


def events(path):
    """(seconds since 1970, packet) of each event from the controller. A torn last record is the end."""
    data = path.read_bytes()
    if data[:8] != b"btsnoop\0" or struct.unpack_from(">II", data, 8) != (1, 2001):
        raise ValueError(f"{path} is not a monitor's btsnoop file")
    at = 16
    while at + 24 <= len(data):
        _, length, flags, _, stamp = struct.unpack_from(">IIIIq", data, at)
        packet = data[at + 24:at + 24 + length]
        at += 24 + length
        if len(packet) == length and flags & 0xFFFF == EVENT:
            yield (stamp - SNOOP_2000) / 1e6 + UNIX_2000, packet


def advertisements(path):
    """(seconds, address as text, data) of each report."""
    for at, packet in events(path):
        if len(packet) < 4 or packet[0] != LE_META or packet[2] != ADVERTISING_REPORT:
            continue
        place = 4
        for _ in range(packet[3]):
            address, length = packet[place + 2:place + 8], packet[place + 8]
            yield at, ":".join(f"{byte:02X}" for byte in reversed(address)), packet[place + 9:place + 9 + length]
            place += 10 + length


def polar_frame(data):
    """(frame counter, displayed rate) of an advertisement with a Polar heart rate block in front, else None."""
    place = 0
    while place + 1 < len(data):
        length = data[place]
        body = data[place + 2:place + 1 + length]
        if data[place + 1] == 0xFF and body[:2] == POLAR and len(body) >= 6 and not body[2] & 0x40:
            return body[2] >> 2 & 7, body[5]
        place += 1 + max(length, 1)
    return None

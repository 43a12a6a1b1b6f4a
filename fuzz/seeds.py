#!/usr/bin/env python3
"""Makes the seeds of the fuzz targets from tests/vectors: fuzz/seeds.py

Only what is missing is written, so that findings, which are kept beside them, stay. The seeds of `stored_value` are
values that a journal wrote: plain, compressed, sealed, of version 1, a name.
"""
import json
import pathlib
import struct

here = pathlib.Path(__file__).parent
vectors = here.parent / "tests/vectors"


def write(target, name, data):
    path = here / "seeds" / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(data)


for entry in json.loads((vectors / "heart_rate_payloads.json").read_text())["entries"]:
    frames = entry["hex"] if isinstance(entry["hex"], list) else [entry["hex"]]
    for number, frame in enumerate(frames[:2]):
        data = bytes.fromhex(frame)
        if entry["kind"].startswith("gatt"):
            write("heart_rate", f"{entry['id']}-{number}", data)
        else:
            company = struct.pack("<H", int(entry["company"], 16))
            write("advertisement", f"{entry['id']}-{number}", company + data)

# The first byte chooses the mapping: five of the target's own, the presets, the default payloads last.
ROUTES = 24
payloads = [b"72", b"null", b'{"bpm":71,"time":1790000000000,"rr_ms":[845,850.5],"contact":true}',
            b'[{"bpm":60},{"bpm":61,"battery":90,"energy_kj":12}]', bytes.fromhex("164d1603"),
            b'{"id":"a","kind":"pulse","samples":[{"hr":70,"rr":[0.85],"at":"2026-11-23T10:00:00.5+01:00","worn":1,"kj":2,'
            b'"bat":80,"rssi":-60}]}', b"[72,[870,871],1790000000000000000]", b'{"mac":"a","data":"2f004b48"}',
            b'{"mac":"a","data":"Bf9rAC8AS0g="}']
payloads += [json.dumps(example["payload"]).encode() if not isinstance(example["payload"], str)
             else example["payload"].encode()
             for example in json.loads((vectors / "mqtt_payloads.json").read_text())["examples"]]
for number, payload in enumerate(payloads):
    write("payload", f"{number:02}", bytes([number % ROUTES]) + payload)


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack(">H", len(data)) + data


def packet(first, body):
    length, head = len(body), bytearray([first])
    while True:
        length, low = divmod(length, 128)
        head.append(low | (128 if length else 0))
        if not length:
            return bytes(head) + body


def connect(version, flags, rest, properties=b""):
    extra = bytes([len(properties)]) + properties if version == 5 else b""
    return packet(0x10, string("MQTT") + bytes([version, flags]) + b"\0\x3c" + extra + rest)


publish4 = packet(0x32, string("hr/strap") + b"\0\x07" + b'{"bpm":71}')
properties = b"\x01\x01\x02\0\0\0\x3c\x23\0\x05\x26\0\x01k\0\x01v\x03\0\x04text\x09\0\x02zz\x08\0\x01r"
publish5 = packet(0x34, string("hr/strap") + b"\0\x07" + bytes([len(properties)]) + properties + b"72")
subscribe4 = packet(0x82, b"\0\x01" + string("board/+/x") + b"\x01" + string("#") + b"\0")
subscribe5 = packet(0x82, b"\0\x01\x05\x26\0\x00\0\x00" + string("hr/#") + b"\x2d")
unsubscribe = packet(0xA2, b"\0\x02" + string("a/#"))
will5 = b"\x18" + b"\x18\0\0\0\x09\x02\0\0\0\x09\x01\x01\x03\0\x01t\x26\0\x01k\0\x01v"[:24]
sessions = {
    "v4": connect(4, 0x02, string("strap")) + publish4 + subscribe4 + unsubscribe + b"\xc0\0\xe0\0",
    "v4-login": connect(4, 0xC2, string("c") + string("strap") + string("secret")) + publish4 * 3,
    "v4-will": connect(4, 0x2E, string("c") + string("hr/strap") + string("gone")) + publish4,
    "v5": connect(5, 0x02, string("strap"), b"\x11\0\0\0\x0a\x27\0\0\x01\0\x21\0\x05") + publish5 + subscribe5
          + b"\xe0\x07\0\x05\x11\0\0\0\x07",
    "v5-will": connect(5, 0x2E, string("c") + will5 + string("w") + string("off")) + publish5,
    "v5-auth": connect(5, 0x02, string("c"), b"\x15\0\x01m\x16\0\x01d\x26\0\x01k\0\x01v\x17\x01\x19\x01"),
    "acks": packet(0x40, b"\0\x01") + packet(0x62, b"\0\x01") + packet(0x62, b"\0\x01\0\0") + packet(0xE0, b"\x04"),
    "only-publish": publish4 + packet(0x30, string("hall/a/hr") + b"60"),
    "alias": packet(0x32, string("") + b"\0\x01\x03\x23\0\x01" + b"72"),
}
for number, (name, data) in enumerate(sessions.items()):
    write("session", name, bytes([(1 if "5" in name or name == "alias" else 0) | (number % 2) * 2]) + data)

"""The cloud: an MQTT receiver that acknowledges everything, counts what arrives, and can go away. A process of its own."""

import asyncio
import collections
import gzip
import json
import multiprocessing
from datetime import datetime

import wire


def fogbeat(topic, payload):
    for line in gzip.decompress(payload).splitlines():
        entry = json.loads(line)
        if "type" not in entry:
            yield entry["device"], round(datetime.fromisoformat(entry["time"]).timestamp() * 1000)


def plain(topic, payload):
    if topic.startswith("hr/"):
        yield topic[3:], json.loads(payload)["time"]


def thingsboard(topic, payload):
    if topic == "v1/gateway/telemetry":
        for device, entries in json.loads(payload).items():
            for entry in entries:
                values = entry.get("values", entry)
                if "time" in values:
                    yield device, int(values["time"])


FORMS = {"fogbeat": fogbeat, "plain": plain, "thingsboard": thingsboard}
# What a ThingsBoard server answers when a gateway asks how fast it may send (no limits), and for its attributes.
ANSWERS = {
    "v1/devices/me/rpc/request/": json.dumps(
        {"maxPayloadSize": 65536, "maxInflightMessages": 100, "rateLimits": {}, "gatewayRateLimits": {}}
    ).encode(),
    "v1/devices/me/attributes/request/": b"{}",
}


class Receiver(asyncio.Protocol):
    def __init__(self, sink):
        self.sink, self.buffer = sink, bytearray()

    def connection_made(self, transport):
        self.transport = transport
        self.five = False
        self.sink.open.add(transport)

    def connection_lost(self, _):
        self.sink.open.discard(self.transport)

    def data_received(self, data):
        self.sink.bytes += len(data)
        self.buffer += data
        for kind, body in wire.split(self.buffer):
            self.take(kind, body)

    def take(self, kind, body):
        sort = kind >> 4
        if sort == 1:
            self.five = body[6] == 5
            self.transport.write(b"\x20\x03\x00\x00\x00" if self.five else b"\x20\x02\x00\x00")
        elif sort == 3:
            self.published(kind, body)
        elif sort == 8:
            number, at, codes = body[:2], 2, b""
            if self.five:
                at += 1 + body[at]
            while at < len(body):
                at += 2 + int.from_bytes(body[at : at + 2], "big")
                codes += bytes([body[at] & 3])
                at += 1
            answer = number + (b"\x00" if self.five else b"") + codes
            self.transport.write(b"\x90" + wire.varint(len(answer)) + answer)
        elif sort == 12:
            self.transport.write(b"\xd0\x00")
        elif sort == 14:
            self.transport.close()

    def published(self, kind, body):
        end = 2 + int.from_bytes(body[:2], "big")
        topic, qos = body[2:end].decode(), kind >> 1 & 3
        number = body[end : end + 2] if qos else b""
        end += len(number)
        if self.five:
            end += 1 + body[end]
        if qos:
            self.transport.write(b"\x40\x02" + number)
        for asked, answer in ANSWERS.items():
            if topic.startswith(asked):
                name = wire.text(topic.replace("request", "response")) + (b"\x00" if self.five else b"")
                self.transport.write(b"\x30" + wire.varint(len(name) + len(answer)) + name + answer)
        for key in self.sink.form(topic, body[end:]):
            self.sink.seen[key] += 1


class Sink:
    def __init__(self, form):
        self.form, self.open, self.seen, self.bytes = FORMS[form], set(), collections.Counter(), 0


async def serve(port, form, pipe):
    loop = asyncio.get_running_loop()
    sink, server = Sink(form), None
    while True:
        command = pipe.recv() if pipe.poll() else None
        if command == "up":
            server = await loop.create_server(lambda: Receiver(sink), "127.0.0.1", port)
        elif command == "down":
            server.close()
            for transport in list(sink.open):
                transport.abort()
        elif command == "count":
            pipe.send(len(sink.seen))
        elif command == "end":
            return pipe.send((dict(sink.seen), sink.bytes))
        await asyncio.sleep(0.01)


class Cloud:
    def __init__(self, port, form):
        self.pipe, theirs = multiprocessing.Pipe()
        run = lambda: asyncio.run(serve(port, form, theirs))
        self.child = multiprocessing.Process(target=run, daemon=True)
        self.child.start()

    def up(self):
        self.pipe.send("up")

    def down(self):
        self.pipe.send("down")

    def count(self):
        self.pipe.send("count")
        return self.pipe.recv()

    def end(self):
        """How often each reading came, and the bytes that came in all."""
        self.pipe.send("end")
        told = self.pipe.recv()
        self.child.join()
        return told

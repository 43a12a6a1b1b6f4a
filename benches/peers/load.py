"""The wearables: each publishes at its rate with QoS 1 over a connection of its own, keeps what is not acknowledged, and
sends it again after a reconnect. A process of its own; what was acknowledged is told at the end."""

import asyncio
import collections
import json
import multiprocessing
import time

import wire

# As many as an MQTT 5 broker lets by default, or more: the load is never what waits.
WINDOW = 1000


class Wearable(asyncio.Protocol):
    def __init__(self, name, state):
        self.name, self.state = name, state
        self.buffer, self.transport, self.ready = bytearray(), None, False

    def connection_made(self, transport):
        self.transport = transport
        transport.write(wire.connect(self.name))

    def data_received(self, data):
        self.buffer += data
        for kind, body in wire.split(self.buffer):
            if kind >> 4 == 2:
                if body[1] != 0:
                    self.transport.close()
                    return
                self.ready = True
                state = self.state
                again = b"".join(wire.publish(state.topic, n, p, True) for n, (_, p) in state.open.items())
                if again:
                    self.transport.write(again)
            elif kind >> 4 == 4:
                done = self.state.open.pop(int.from_bytes(body[:2], "big"), None)
                if done:
                    self.state.acknowledged.append(done[0])

    def connection_lost(self, _):
        self.ready = False
        self.transport = None


class State:
    def __init__(self, name, rate, start_ms):
        self.name, self.topic = name, f"hr/{name}"
        self.rate, self.start_ms = rate, start_ms
        self.made, self.number = 0, 0
        self.waiting = collections.deque()
        # What was sent and not acknowledged, by packet number, oldest first.
        self.open = collections.OrderedDict()
        self.acknowledged = []
        self.client = None

    def make(self, until_ms):
        while self.start_ms + self.made * 1000 / self.rate <= until_ms:
            stamp = self.start_ms + int(self.made * 1000 / self.rate)
            self.waiting.append((stamp, json.dumps({"bpm": 60 + self.made % 60, "time": stamp}).encode()))
            self.made += 1

    def send(self):
        out = []
        while self.waiting and len(self.open) < WINDOW:
            stamp, payload = self.waiting.popleft()
            self.number = self.number % 65535 + 1
            self.open[self.number] = (stamp, payload)
            out.append(wire.publish(self.topic, self.number, payload))
        if out:
            self.client.transport.write(b"".join(out))


async def wear(states, port, stop):
    loop = asyncio.get_running_loop()
    making = True
    retry = {}
    while True:
        command = stop.recv() if stop.poll() else None
        if command == "quiet":
            making = False
        elif command == "count":
            stop.send(sum(len(state.acknowledged) for state in states))
        elif command == "end":
            return
        now = time.time() * 1000
        for state in states:
            if making:
                state.make(now)
            client = state.client
            if client is None or (client.transport is None and time.monotonic() >= retry.get(state.name, 0)):
                retry[state.name] = time.monotonic() + 1
                try:
                    _, state.client = await loop.create_connection(
                        lambda state=state: Wearable(state.name, state), "127.0.0.1", port
                    )
                except OSError:
                    pass
            elif client.ready:
                state.send()
        await asyncio.sleep(0.01)


def process(port, devices, rate, pipe):
    start_ms = int(time.time() * 1000)
    # Spread over a second, as hearts are.
    states = [State(f"strap-{n:02}", rate, start_ms + n * 1000 // devices) for n in range(devices)]
    asyncio.run(wear(states, port, pipe))
    pipe.send({state.name: state.acknowledged for state in states})


class Load:
    def __init__(self, port, devices, rate):
        self.pipe, theirs = multiprocessing.Pipe()
        self.child = multiprocessing.Process(target=process, args=(port, devices, rate, theirs), daemon=True)
        self.child.start()

    def count(self):
        self.pipe.send("count")
        return self.pipe.recv()

    def quiet(self):
        """Nothing new is made; what is not acknowledged is still sent."""
        self.pipe.send("quiet")

    def end(self):
        """The acknowledged readings, as stamps by device."""
        self.pipe.send("end")
        told = self.pipe.recv()
        self.child.join()
        return told

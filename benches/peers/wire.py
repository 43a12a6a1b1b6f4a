"""As much of MQTT 3.1.1 as a load and a receiver need."""


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, digit = value >> 7, value & 127
        out.append(digit | (128 if value else 0))
        if not value:
            return bytes(out)


def text(value: str) -> bytes:
    raw = value.encode()
    return len(raw).to_bytes(2, "big") + raw


def connect(client: str, keep_alive: int = 0) -> bytes:
    body = text("MQTT") + bytes([4, 0]) + keep_alive.to_bytes(2, "big") + text(client)
    return bytes([0x10]) + varint(len(body)) + body


def publish(topic: str, number: int, payload: bytes, again: bool = False) -> bytes:
    body = text(topic) + number.to_bytes(2, "big") + payload
    return bytes([0x3A if again else 0x32]) + varint(len(body)) + body


def split(buffer: bytearray):
    """Takes whole packets (first byte, body) off the front of `buffer`."""
    at = 0
    while True:
        length, shift, head = 0, 0, at + 1
        while True:
            if head >= len(buffer):
                del buffer[:at]
                return
            digit = buffer[head]
            head += 1
            length |= (digit & 127) << shift
            shift += 7
            if digit < 128:
                break
        if head + length > len(buffer):
            del buffer[:at]
            return
        yield buffer[at], bytes(buffer[head : head + length])
        at = head + length

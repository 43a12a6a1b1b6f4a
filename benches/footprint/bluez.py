"""org.bluez with straps that can be connected to, on a message bus of its own: as much of it as a gateway sees. Each strap
notifies once a second, with an RR interval. `bluez.py BUS-ADDRESS ADAPTERS STRAPS`; prints "there" when it can be asked.
Needs dbus-fast."""

import asyncio
import random
import sys

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

UUID = "0000{:04x}-0000-1000-8000-00805f9b34fb"
# Services and their characteristics: heart rate, battery, device information.
OFFERS = {0x180D: [0x2A37, 0x2A38], 0x180F: [0x2A19], 0x180A: [0x2A29, 0x2A24, 0x2A25, 0x2A26]}
READ = {0x2A38: b"\x01", 0x2A19: b"\x5f", 0x2A29: b"Simulated", 0x2A24: b"S1", 0x2A26: b"1.0"}


class Strap:
    def __init__(self, index, adapter):
        self.address, self.adapter = f"C4:A0:00:00:00:{index + 1:02X}", adapter
        self.path = f"{adapter}/dev_{self.address.replace(':', '_')}"
        self.index, self.connected, self.notifies, self.rr = index, False, False, 800

    def objects(self):
        """Paths with interfaces and properties."""
        device = {
            "Address": Variant("s", self.address), "AddressType": Variant("s", "random"),
            "Name": Variant("s", f"Strap {self.index}"), "Alias": Variant("s", f"Strap {self.index}"),
            "Paired": Variant("b", False), "Trusted": Variant("b", False), "Blocked": Variant("b", False),
            "LegacyPairing": Variant("b", False), "Adapter": Variant("o", self.adapter),
            "Connected": Variant("b", self.connected), "ServicesResolved": Variant("b", self.connected),
            "UUIDs": Variant("as", [UUID.format(service) for service in OFFERS]),
        }
        yield self.path, "org.bluez.Device1", device
        if not self.connected:
            return
        handle = 16
        for service, characteristics in OFFERS.items():
            at = f"{self.path}/service{handle:04x}"
            yield at, "org.bluez.GattService1", {
                "UUID": Variant("s", UUID.format(service)), "Primary": Variant("b", True),
                "Device": Variant("o", self.path), "Includes": Variant("ao", []),
            }
            for characteristic in characteristics:
                handle += 3
                yield f"{at}/char{handle:04x}", "org.bluez.GattCharacteristic1", {
                    "UUID": Variant("s", UUID.format(characteristic)), "Service": Variant("o", at),
                    "Flags": Variant("as", ["notify"] if characteristic == 0x2A37 else ["read"]),
                    "MTU": Variant("q", 185),
                }
            handle += 3

    def value(self):
        self.rr = min(1000, max(700, self.rr + random.randint(-20, 20)))
        return bytes([0x10, 60_000 * 1024 // 1000 // self.rr]) + self.rr.to_bytes(2, "little")


class Stack:
    def __init__(self, bus, adapters, straps):
        self.bus, self.adapters = bus, [f"/org/bluez/hci{number}" for number in range(adapters)]
        # Each is in reach of one adapter.
        every = [Strap(index, self.adapters[index % adapters]) for index in range(straps)]
        self.straps = {strap.path: strap for strap in every}

    def adapter(self, number):
        return {
            "Address": Variant("s", f"00:1A:7D:DA:71:{number:02X}"), "AddressType": Variant("s", "public"),
            "Name": Variant("s", "gym"), "Alias": Variant("s", "gym"), "Class": Variant("u", 0),
            "Powered": Variant("b", True), "Discoverable": Variant("b", False), "Pairable": Variant("b", False),
            "PairableTimeout": Variant("u", 0), "DiscoverableTimeout": Variant("u", 0),
            "Discovering": Variant("b", True), "Modalias": Variant("s", "usb:v1D6Bp0246d0542"), "UUIDs": Variant("as", []),
        }

    def tree(self):
        tree = {path: {"org.bluez.Adapter1": self.adapter(number)} for number, path in enumerate(self.adapters)}
        for strap in self.straps.values():
            for path, interface, properties in strap.objects():
                tree[path] = {interface: properties}
        return tree

    def signal(self, path, interface, member, signature, body):
        self.bus.send(Message(message_type=MessageType.SIGNAL, path=path, interface=interface, member=member,
                              signature=signature, body=body))

    def changed(self, path, interface, properties):
        self.signal(path, "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", [interface, properties, []])

    def answer(self, call):
        if call.message_type != MessageType.METHOD_CALL:
            return None
        strap = next((self.straps[path] for path in self.straps if call.path.startswith(path)), None)
        match call.member:
            case "GetManagedObjects":
                return Message.new_method_return(call, "a{oa{sa{sv}}}", [self.tree()])
            case "Introspect":
                depth = call.path.rstrip("/") + "/"
                below = sorted({path[len(depth):].split("/")[0] for path in self.tree() if path.startswith(depth)})
                own = [f'<interface name="{name}"/>' for name in self.tree().get(call.path, {})]
                xml = "<node>" + "".join(own) + "".join(f'<node name="{name}"/>' for name in below) + "</node>"
                return Message.new_method_return(call, "s", [xml])
            case "Get":
                return Message.new_method_return(call, "v", [self.tree()[call.path][call.body[0]][call.body[1]]])
            case "GetAll":
                return Message.new_method_return(call, "a{sv}", [self.tree()[call.path][call.body[0]]])
            case "Connect":
                strap.connected = True
                self.changed(strap.path, "org.bluez.Device1", {"Connected": Variant("b", True)})
                for path, interface, properties in list(strap.objects())[1:]:
                    self.signal("/", "org.freedesktop.DBus.ObjectManager", "InterfacesAdded", "oa{sa{sv}}",
                                [path, {interface: properties}])
                self.changed(strap.path, "org.bluez.Device1", {"ServicesResolved": Variant("b", True)})
            case "Disconnect":
                strap.connected = strap.notifies = False
                self.changed(strap.path, "org.bluez.Device1", {"Connected": Variant("b", False)})
            case "StartNotify":
                strap.notifies = call.path
            case "ReadValue":
                uuid = self.tree()[call.path]["org.bluez.GattCharacteristic1"]["UUID"].value
                value = READ.get(int(uuid[4:8], 16), f"{strap.index:08}".encode())
                return Message.new_method_return(call, "ay", [value])
        return Message.new_method_return(call)

    async def live(self, strap):
        loop = asyncio.get_running_loop()
        due = loop.time() + strap.index / len(self.straps)
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += 1
            if strap.notifies:
                self.changed(strap.notifies, "org.bluez.GattCharacteristic1", {"Value": Variant("ay", strap.value())})
            elif not strap.connected:
                self.changed(strap.path, "org.bluez.Device1", {"RSSI": Variant("n", -60)})


async def main():
    bus = await MessageBus(bus_address=sys.argv[1]).connect()
    stack = Stack(bus, int(sys.argv[2]), int(sys.argv[3]))
    bus.add_message_handler(stack.answer)
    await bus.request_name("org.bluez")
    print("there", flush=True)
    await asyncio.gather(*map(stack.live, stack.straps.values()))


asyncio.run(main())

"""Simulated chest straps: a heart, a GATT server with the Heart Rate service, and the ways in which straps fail.

Each measurement carries its number in the energy field, so that what arrived can be held against what was sent, and
the beats of the heart since the last one as RR intervals: none, one or two, as with a real strap.
"""
import asyncio
import math
import random
import struct

from bumble import hci, ll
from bumble.controller import Controller
from bumble.core import UUID, AdvertisingData
from bumble.device import Device, DeviceConfiguration
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.host import Host
from bumble.transport.common import AsyncPipeSink

ADVERTISING_MS = 250.0
SUPERVISION_SECONDS = 2.0
CONTACT_DETECTED, ENERGY, INTERVALS = 0x06, 0x08, 0x10


class Heart:
    """Beats around a rate that comes and goes slowly; intervals in 1/1024 s."""

    def __init__(self, seed, rate):
        self.dice, self.rate, self.seconds, self.next_beat = random.Random(seed), rate, 0.0, 0.0

    def advance(self, seconds):
        """The rate now, and the intervals that ended within the last `seconds`."""
        self.seconds += seconds
        rate = self.rate + 8 * math.sin(self.seconds / 20)
        intervals = []
        while self.next_beat <= self.seconds:
            ticks = round(1024 * 60 / rate * (1 + self.dice.uniform(-0.04, 0.04)))
            self.next_beat += ticks / 1024
            intervals.append(ticks)
        return round(rate), intervals


class Strap:
    def __init__(self, index, name, air, note, pairing=False):
        """`pairing`: it sends nothing to whom it is not paired with."""
        self.index, self.name, self.note, self.pairing = index, name, note, pairing
        self.heart = Heart(index, 60 + (7 * index) % 90)
        self.number = self.sent = 0
        self.silent = False
        self.on_air = True
        self.connection = None
        self.address = hci.Address(f"C0:00:00:00:00:{index + 1:02X}", hci.Address.RANDOM_DEVICE_ADDRESS)
        self.controller = Controller(f"strap {index}", link=air)
        self.controller.le_features &= ~hci.LeFeatureMask.LE_EXTENDED_ADVERTISING
        self.controller.le_acl_data_packet_length = 251
        config = DeviceConfiguration()
        config.name, config.address, config.keystore = name, self.address, None
        config.advertising_interval_min = config.advertising_interval_max = ADVERTISING_MS
        config.advertising_data = bytes(AdvertisingData([
            (AdvertisingData.FLAGS, b"\x06"),
            (AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS, struct.pack("<HH", 0x180D, 0x180F)),
            (AdvertisingData.COMPLETE_LOCAL_NAME, name.encode()),
        ]))
        self.device = Device(config=config, host=Host(self.controller, AsyncPipeSink(self.controller)))
        self.device.add_services(self._services())
        self.device.on("connection", self._connected)

    def _services(self):
        readable, read = Characteristic.READABLE, Characteristic.Properties.READ

        def text(uuid, value):
            return Characteristic(UUID.from_16_bits(uuid), read, readable, value.encode())

        self.measurement = Characteristic(
            UUID.from_16_bits(0x2A37), Characteristic.Properties.NOTIFY, Characteristic.Permissions(0), b"")
        control_point = Characteristic(
            UUID.from_16_bits(0x2A39), Characteristic.Properties.WRITE, Characteristic.WRITEABLE,
            CharacteristicValue(write=lambda _, value: self.note("control_point", strap=self.index, hex=value.hex())))
        return [
            Service(UUID.from_16_bits(0x180D), [
                self.measurement,
                Characteristic(UUID.from_16_bits(0x2A38), read, readable, b"\x01"),
                control_point,
            ]),
            Service(UUID.from_16_bits(0x180F), [
                Characteristic(UUID.from_16_bits(0x2A19), read, readable, bytes([90 - self.index])),
            ]),
            Service(UUID.from_16_bits(0x180A), [
                text(0x2A29, "Rig"), text(0x2A24, "Simulated"), text(0x2A25, f"SN{self.index:04d}"), text(0x2A26, "1.0"),
            ]),
        ]

    # -- on the air ----------------------------------------------------------------------------------------------

    async def start(self):
        await self.device.power_on()
        await self.advertise()

    async def advertise(self):
        if self.connection is None and self.on_air and not self.device.is_advertising:
            await self.device.start_advertising(auto_restart=False)
            self.note("advertising", strap=self.index, address=self.address.to_string(False))

    def _connected(self, connection):
        self.connection = connection
        self.note("connected", strap=self.index)
        connection.on("disconnection", self._disconnected)

    def _disconnected(self, reason):
        self.connection = None
        self.note("disconnected", strap=self.index, reason=reason)
        asyncio.ensure_future(self.advertise())

    @property
    def subscribed(self):
        if self.connection is None or (self.pairing and not self.connection.is_encrypted):
            return False
        wanted = self.device.gatt_server.subscribers.get(self.connection, {}).get(self.measurement.handle)
        return bool(wanted and wanted[0] & 1)

    async def beat(self):
        """A measurement a second, for whoever listens."""
        loop = asyncio.get_running_loop()
        due = loop.time() + random.random()
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            late = loop.time() - due
            due += 1.0
            rate, intervals = self.heart.advance(1.0)
            if not self.silent and self.subscribed:
                await self._send(rate, intervals, late)

    async def _send(self, rate, intervals, late):
        self.number = (self.number + 1) & 0xFFFF
        flags = CONTACT_DETECTED | ENERGY | (INTERVALS if intervals else 0)
        payload = struct.pack(f"<BBH{len(intervals)}H", flags, rate, self.number, *intervals)
        self.note("sent", strap=self.index, n=self.number, bpm=rate, rr=intervals, late=round(late, 3))
        await self.device.gatt_server.notify_subscriber(self.connection, self.measurement, payload)
        self.sent += 1

    # -- failing -------------------------------------------------------------------------------------------------

    async def leave(self):
        """Goes, and says so."""
        self.on_air = False
        if self.connection:
            await self.connection.disconnect(hci.HCI_ErrorCode.REMOTE_USER_TERMINATED_CONNECTION_ERROR)
        else:
            await self.device.stop_advertising()

    async def come_back(self):
        self.on_air, self.silent = True, False
        await self.advertise()

    async def vanish(self):
        """Goes without a word: either end learns it from the supervision time-out."""
        self.on_air, self.silent = False, True
        await asyncio.sleep(SUPERVISION_SECONDS)
        for connection in list(self.controller.le_connections.values()):
            connection.send_ll_control_pdu(ll.TerminateInd(hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR))
            self.controller.on_le_disconnected(connection, hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)
        if self.connection is None:
            await self.device.stop_advertising()

    async def rotate(self):
        """Leaves, and takes another random address for when it comes back."""
        await self.leave()
        self.address = hci.Address.generate_static_address()
        await self.device.send_sync_command(hci.HCI_LE_Set_Random_Address_Command(random_address=self.address))
        self.device.random_address = self.device.static_address = self.address

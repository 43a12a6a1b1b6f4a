"""The air between the straps, and the dongle that Linux drives through /dev/vhci.

Stands on bumble's software controllers, and mends what a real host on top of them trips over:

* data is stamped with the address that the connection really uses (bumble stamps the random one, Linux connects with
  its public one, and the strap would never see it);
* a pending connect can be cancelled, and a reset forgets connections and scans;
* packets that the kernel refuses while hciN is down are lost, as with a real dongle; bumble's own transport closes;
* every transmitter has its own signal strength;
* what only the dongle listens to (broadcasts, passers-by) costs a few bytes, not a controller each.
"""
import asyncio
import os
import random

from bumble import hci, ll
from bumble.controller import Controller
from bumble.link import LocalLink

DONGLES = ["00:1A:7D:DA:71:01", "00:1A:7D:DA:71:02"]
REPORT_CONNECTABLE, REPORT_BROADCAST, REPORT_SCAN_RESPONSE = 0x00, 0x03, 0x04


class Air(LocalLink):
    """Carries packets to whom they concern; bumble's own link asks everybody, which is too slow under emulation."""

    def send_acl_data(self, sender_controller, destination_address, transport, data):
        connection = sender_controller.le_connections.get(destination_address)
        if connection is None:
            return
        source = connection.self_address
        for controller in self.controllers:
            peer = controller.le_connections.get(source)
            if peer is not None and peer.self_address == destination_address:
                asyncio.get_running_loop().call_soon(controller.on_link_acl_data, source, transport, data)
                return

    def send_advertising_pdu(self, sender_controller, packet):
        loop = asyncio.get_running_loop()
        for controller in self.controllers:
            if controller is sender_controller:
                continue
            listens = controller.le_scan_enable or controller.pending_le_connection is not None
            if listens or isinstance(packet, ll.ConnectInd):
                loop.call_soon(controller.on_ll_advertising_pdu, packet)

    def send_ll_control_pdu(self, sender_address, receiver_address, packet):
        if self.find_le_controller(receiver_address) is not None:  # else its radio is gone, and so is the packet
            super().send_ll_control_pdu(sender_address, receiver_address, packet)


class Vhci:
    """One virtual controller of the kernel; opening it plugs the dongle in, closing it pulls it out."""

    def __init__(self, note):
        self.note, self.sink = note, None
        self.descriptor = os.open("/dev/vhci", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        os.write(self.descriptor, b"\xff\x00")  # a primary controller, please
        asyncio.get_running_loop().add_reader(self.descriptor, self._readable)

    def set_packet_sink(self, sink):
        self.sink = sink

    def _readable(self):
        try:
            packet = os.read(self.descriptor, 4096)  # one read is one packet
        except BlockingIOError:
            return
        if packet[:1] == b"\xff":
            self.note("plugged", hci=int.from_bytes(packet[2:4], "little"))
        elif packet and self.sink:
            self.sink.on_packet(packet)

    def on_packet(self, packet):
        try:
            os.write(self.descriptor, packet)
        except OSError:
            pass  # hciN is down

    def close(self):
        asyncio.get_running_loop().remove_reader(self.descriptor)
        os.close(self.descriptor)


class Dongle(Controller):
    """A plain Bluetooth 4 controller: legacy advertising, no address resolution, a duplicate filter as most have it
    (what differs in a byte is no duplicate)."""

    def __init__(self, port, air, address):
        super().__init__("dongle", host_source=port, host_sink=port, link=air, public_address=address)
        self.le_features &= ~(
            hci.LeFeatureMask.LE_EXTENDED_ADVERTISING
            | hci.LeFeatureMask.LE_PERIODIC_ADVERTISING
            | hci.LeFeatureMask.LL_PRIVACY
        )
        self.le_acl_data_packet_length = 251
        self.filter_accept_list_size = 32
        self.port = port
        # Links that it holds; None: as many as are asked for.
        self.most_links = None
        self.signal = {}
        self.heard = set()

    def forget(self):
        for connection in list(self.le_connections.values()):
            connection.send_ll_control_pdu(ll.TerminateInd(hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR))
        self.le_connections.clear()
        self.pending_le_connection = None
        self.le_scan_enable = False

    def on_hci_reset_command(self, command):
        self.forget()
        return super().on_hci_reset_command(command)

    def on_hci_le_set_scan_enable_command(self, command):
        self.heard.clear()
        return super().on_hci_le_set_scan_enable_command(command)

    def on_hci_le_create_connection_command(self, command):
        answer = super().on_hci_le_create_connection_command(command)
        if self.most_links is not None and len(self.le_connections) >= self.most_links:
            self.give_up_connecting(hci.HCI_ErrorCode.CONNECTION_REJECTED_DUE_TO_LIMITED_RESOURCES_ERROR)
        return answer

    def on_hci_le_create_connection_cancel_command(self, command):
        if self.pending_le_connection is None:
            return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.COMMAND_DISALLOWED_ERROR)
        self.give_up_connecting(hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR)
        return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.SUCCESS)

    def give_up_connecting(self, status):
        pending, self.pending_le_connection = self.pending_le_connection, None
        given_up = hci.HCI_LE_Connection_Complete_Event(
            status=status, connection_handle=0, role=hci.Role.CENTRAL,
            peer_address_type=pending.peer_address.address_type, peer_address=pending.peer_address,
            connection_interval=0, peripheral_latency=0, supervision_timeout=0, central_clock_accuracy=0,
        )
        asyncio.get_running_loop().call_soon(self.send_hci_packet, given_up)

    def send_hci_packet(self, packet):
        """bumble's own reports of straps that can be connected get their strength and pass the duplicate filter."""
        if isinstance(packet, hci.HCI_LE_Advertising_Report_Event):
            for report in packet.reports:
                kind = int(report.event_type)
                data = b"" if kind == REPORT_SCAN_RESPONSE else report.data
                self.hear(bytes(report.address), int(report.address_type), kind, data,
                          self.signal.get(report.address.to_string(False), -60))
            return
        super().send_hci_packet(packet)

    def hear(self, address, address_type, kind, data, strength):
        """One advertisement arrives; `address` has its least significant byte first, as on the air."""
        if not self.le_scan_enable or (kind == REPORT_SCAN_RESPONSE and self.le_scan_type == 0):
            return
        if self.filter_duplicates:
            seen = (address, kind, data)
            if seen in self.heard:
                return
            self.heard.add(seen)
        strength = max(-100, min(-20, strength + random.randint(-3, 3))) & 0xFF
        report = bytes([0x02, 0x01, kind, address_type]) + address + bytes([len(data)]) + data + bytes([strength])
        self.port.on_packet(b"\x04\x3e" + bytes([len(report)]) + report)

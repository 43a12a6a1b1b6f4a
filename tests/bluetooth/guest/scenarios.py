"""The scenarios: who is on the air, what goes wrong, and how long it takes. Host and machine both read this."""
import dataclasses
from collections.abc import Awaitable, Callable

# In flight when a process is killed: its own queues, the bus, and one commit interval of the journal.
IN_FLIGHT = 3.0
STEADY, AWAY = 20, 6


@dataclasses.dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    act: Callable[..., Awaitable[None]]
    straps: int = 3
    # Playing time without the boot, roughly; limits are made from it.
    seconds: int = 120
    # All straps call themselves so.
    strap_name: str | None = None
    # Listed by this key of `[[ble.device]]`.
    listed_by: str = "address"
    broadcast: int = 0
    passers_by: int = 0
    memory_mb: int = 1024
    # bluetoothd and the gateway tell more, and btmon writes down what goes over HCI.
    debug: bool = False

    def devices(self, straps):
        """Name on the delivered lines -> number of the strap."""
        if self.broadcast:
            return {f"polar-{index:02}": index for index in range(self.broadcast)}
        return {f"strap-{strap.index:02}": strap.index for strap in straps}

    def settings(self, straps):
        lines = ["[ble]", "slots = 16", f"broadcast = {str(bool(self.broadcast)).lower()}",
                 f"connect = {str(not self.broadcast).lower()}"]
        for alias, index in self.devices(straps).items():
            if self.broadcast:
                key, value = "polar_id", f"A7{index:06X}"
            elif self.listed_by == "name":
                key, value = "name", straps[index].name
            else:
                key, value = "address", straps[index].address.to_string(False)
            lines += ["[[ble.device]]", f'{key} = "{value}"', f'alias = "{alias}"']
        return "\n".join(lines) + "\n"


async def listen(stage, seconds):
    await stage.until_streaming()
    await stage.steady(seconds)


async def short(stage):
    await listen(stage, STEADY)


async def twelve(stage):
    await listen(stage, 600)


async def twice(stage, fault):
    """Each fault comes twice: the second meets what the first has left behind."""
    for _ in range(2):
        await listen(stage, STEADY)
        await fault()
        await stage.steady(STEADY)
    await listen(stage, STEADY)


async def drop(stage):
    strap = stage.straps[0]

    async def fault():
        async with stage.cause("drops and returns", [strap]):
            await strap.leave()
            await stage.steady(AWAY)
            await strap.come_back()

    await twice(stage, fault)


async def vanish(stage):
    strap = stage.straps[0]

    async def fault():
        async with stage.cause("vanishes and returns", [strap]):
            await strap.vanish()
            await stage.steady(AWAY)
            await strap.come_back()

    await twice(stage, fault)


async def mute(stage):
    strap = stage.straps[0]

    async def fault():
        async with stage.cause("mute while connected", [strap]):
            strap.silent = True
            await stage.steady(4 * AWAY)
            strap.silent = False

    await twice(stage, fault)


async def rotate(stage):
    strap = stage.straps[0]

    async def fault():
        async with stage.cause("comes back under another address", [strap]):
            await strap.rotate()
            await stage.steady(1)
            await strap.come_back()

    await twice(stage, fault)


async def namesakes(stage):
    first, second = stage.straps[:2]

    async def fault():
        async with stage.cause("one of two namesakes drops and returns", [first]):
            await first.leave()
            await stage.steady(AWAY)
            await first.come_back()
        await stage.steady(STEADY)
        async with stage.cause("then the other", [second]):
            await second.leave()
            await stage.steady(AWAY)
            await second.come_back()

    await twice(stage, fault)


async def bluetoothd(stage):
    async def fault():
        async with stage.cause("bluetoothd killed and restarted", stage.straps, IN_FLIGHT):
            stage.kill_bluetoothd()
            await stage.steady(AWAY)
            stage.start_bluetoothd()
            await stage.until_powered()

    await twice(stage, fault)


async def power(stage):
    async def fault():
        async with stage.cause("adapter switched off and on", stage.straps, IN_FLIGHT):
            await stage.run("bluetoothctl", "power", "off")
            await stage.steady(AWAY)
            await stage.run("bluetoothctl", "power", "on")
            await stage.until_powered()

    await twice(stage, fault)


async def hciconfig(stage):
    async def fault():
        async with stage.cause("hciconfig down and up", stage.straps, IN_FLIGHT):
            await stage.run("hciconfig", "hci0", "down")
            await stage.steady(AWAY)
            await stage.run("hciconfig", "hci0", "up")
            await stage.until_powered()

    await twice(stage, fault)


async def unplug(stage):
    async def fault():
        async with stage.cause("dongle pulled out and put back", stage.straps, IN_FLIGHT):
            stage.unplug()
            await stage.steady(AWAY)
            stage.plug()
            await stage.until_powered()

    await twice(stage, fault)


async def gateway(stage):
    async def fault():
        async with stage.cause("gateway killed and restarted", stage.straps, IN_FLIGHT):
            stage.kill_gateway()
            await stage.steady(2)
            stage.start_gateway()

    await twice(stage, fault)


async def broadcast(stage):
    stage.broadcasters()
    await stage.steady(180)


ALL = [
    Scenario("short", "three straps, a boot, their readings", short, seconds=40),
    Scenario("twelve", "twelve straps on one adapter for ten minutes", twelve, straps=12, seconds=660),
    Scenario("drop", "a strap drops and returns", drop),
    Scenario("vanish", "a strap vanishes without a word", vanish),
    Scenario("mute", "a strap stays connected and says nothing", mute, seconds=180),
    Scenario("rotate", "a strap changes its address", rotate, listed_by="name"),
    Scenario("namesakes", "two straps of the same name", namesakes, strap_name="Gym HR", seconds=180),
    Scenario("bluetoothd", "bluetoothd is killed and restarted", bluetoothd),
    Scenario("power", "the adapter is switched off and on", power),
    Scenario("hciconfig", "hciconfig down and up", hciconfig),
    Scenario("unplug", "the dongle is pulled out and put back", unplug),
    Scenario("gateway", "the gateway is killed and restarted", gateway),
    Scenario("broadcast", "forty broadcasting straps among passers-by", broadcast, straps=0, broadcast=40,
             passers_by=200, seconds=180),
]


def named(name, options=()):
    """A scenario by its name; options are `key=value` of its whole-number fields, and `debug`."""
    scenario = next(scenario for scenario in ALL if scenario.name == name)
    changes = {}
    for option in options:
        key, _, value = option.partition("=")
        changes[key] = int(value) if value else True
    return dataclasses.replace(scenario, **changes)

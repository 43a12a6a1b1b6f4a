"""The scenarios: who is on the air, what goes wrong, and how long it takes. Host and machine both read this."""
import dataclasses
from collections.abc import Awaitable, Callable

# In flight when a process is killed: its own queues, the bus, and one commit interval of the journal.
IN_FLIGHT = 3.0
AWAY = 6
# A limit that only a broken run meets.
MINUTES = 180


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
    # Quiet times before and after a fault.
    steady: int = 20
    memory_mb: int = 1024
    # How many of the straps the configuration lists; None: all.
    listed: int | None = None
    dongles: int = 1
    # Links that a dongle holds; one more it refuses.
    most_links: int | None = None
    # Straps send nothing to whom they are not paired with.
    pairing: bool = False
    # No bluetoothd, no dongle and no gateway before the scenario brings them.
    bare: bool = False
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
        for alias, index in list(self.devices(straps).items())[:self.listed]:
            if self.broadcast:
                key, value = "polar_id", f"A7{index:06X}"
            elif self.listed_by == "name":
                key, value = "name", straps[index].name
            else:
                key, value = "address", straps[index].address.to_string(False)
            lines += ["[[ble.device]]", f'{key} = "{value}"', f'alias = "{alias}"', f"pair = {str(self.pairing).lower()}"]
        return "\n".join(lines) + "\n"


async def listen(stage, seconds=None):
    await stage.until_streaming()
    await stage.steady(seconds)


async def short(stage):
    await listen(stage)


async def twelve(stage):
    await listen(stage, 600)


async def twice(stage, fault):
    """Each fault comes twice: the second meets what the first has left behind."""
    for _ in range(2):
        await listen(stage)
        await fault()
        await stage.steady()
    await listen(stage)


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
        await stage.steady()
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


async def late(stage):
    async def lacks(what):
        return what in (await stage.bluetooth()).get("unavailable", "")

    async with stage.cause("no Bluetooth at all", stage.straps):
        stage.start_gateway()
        await stage.until(lambda: lacks("bluetooth.service"), MINUTES, "status does not say that there is no BlueZ")
        await stage.steady()
        stage.start_bluetoothd()
        await stage.until(lambda: lacks("adapter"), MINUTES, "status does not say that there is no adapter")
        await stage.steady()
        stage.plug()
        await stage.until_powered()
    await listen(stage)
    stage.check("unavailable" not in await stage.bluetooth(), "status still says that there is no Bluetooth")
    told = stage.said().count("no Bluetooth")
    stage.check(told == 2, f"what is missing was told {told} times, not once each")


async def scan(stage):
    await stage.bring_up()
    first, second, third = stage.straps
    # Without a gateway.
    rows = await stage.scan(8)
    seen = [rows.get(strap.address.to_string(False), {}) for strap in stage.straps]
    stage.check(all(row.get("gatt") for row in seen), f"the scan does not show every strap: {rows}")
    stage.check([row["allowed"] for row in seen] == [True, False, False], f"not as the list says: {seen}")
    code, _ = await stage.fogbeat("scan", "--allow", second.address.to_string(False), "--alias", "strap-01")
    stage.check(code == 0, f"--allow without a gateway ended with {code}, see commands.log")
    # With one.
    stage.start_gateway()
    await stage.until_heard([first, second])
    # A controller reports whoever says nothing new once in ten seconds.
    rows = await stage.scan(15)
    row = rows[first.address.to_string(False)]
    stage.check(row["connected"] and row["device"] == "strap-00" and row["battery_percent"] == 90, f"{row}")
    stage.check("bpm" in row and "rr_ms" in row, f"{row}")
    stage.check(rows[second.address.to_string(False)]["connected"], "allowed by command, and not connected")
    stage.check(third.sent == 0 and not rows[third.address.to_string(False)]["allowed"], "a stranger is listened to")
    code, _ = await stage.fogbeat("scan", "--allow", third.name, "--alias", "strap-02")
    stage.check(code == 0, f"--allow with a gateway ended with {code}, see commands.log")
    await listen(stage)
    drawn = await stage.on_terminal("scan", "--for", "5s")
    (stage.share / "scan.terminal").write_text(drawn)
    tables = drawn.split("A\r")
    stage.check(len(tables) >= 4, f"drawn {len(tables)} times in 5 s")
    stage.check(all(tables[-1].count(f"strap-{index:02}") == 1 for index in range(3)), f"not one table: {tables[-1]!r}")
    stage.check(all(len(line) <= 80 + 4 for line in tables[-1].splitlines()), "wider than the terminal")


async def adapters(stage):
    first, second = stage.dongles
    walker, *others = stage.straps

    def on(dongle):
        return [strap for strap in stage.straps if dongle.le_connections.get(strap.address)]

    await listen(stage)
    stage.check(on(first) == stage.straps, f"not on the dongle that hears them best: {on(first)}")
    async with stage.cause("a strap goes, and returns beside the other dongle", [walker]):
        await walker.leave()
        first.signal[walker.address.to_string(False)] = -85
        second.signal[walker.address.to_string(False)] = -45
        await stage.steady(AWAY)
        await walker.come_back()
    await stage.until_streaming()
    await stage.steady()
    stage.check(on(second) == [walker] and on(first) == others, f"{on(first)} and {on(second)}")
    async with stage.cause("the first dongle is pulled out, and the second takes over", others, IN_FLIGHT):
        stage.unplug()
    await stage.until_streaming()
    await stage.steady()
    stage.check(set(on(second)) == set(stage.straps), f"{on(second)}")


async def pair(stage):
    strap = stage.straps[0]

    async def fault():
        _, told = await stage.run("bluetoothctl", "info", strap.address.to_string(False))
        stage.check("Paired: yes" in told, f"not paired: {told}")
        async with stage.cause("a paired strap drops and returns", [strap]):
            await strap.leave()
            await stage.steady(AWAY)
            await strap.come_back()

    await twice(stage, fault)


async def slots(stage):
    def listened_to():
        return sum(strap.subscribed for strap in stage.straps)

    await stage.until(lambda: listened_to() == stage.scenario.most_links, MINUTES, "the links are not all in use")
    await stage.steady(60)
    adapter, = (await stage.bluetooth())["adapters"]
    found = {key: adapter[key] for key in ("slots", "connections", "waiting")}
    links = stage.scenario.most_links
    stage.check(found == {"slots": links, "connections": links, "waiting": len(stage.straps) - links},
                f"the refusal of one link more is not learnt from: {adapter}")
    stage.check(listened_to() == links, "links were lost over it")


async def broadcast(stage):
    stage.broadcasters()
    await stage.steady(stage.scenario.seconds)


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
    Scenario("late", "no bluetoothd, then no adapter, then both", late, bare=True),
    Scenario("scan", "who is on the air, with and without a gateway, and allowing them", scan, listed=1, bare=True),
    Scenario("adapters", "two dongles: a strap moves to the nearer one, and one takes over for the other", adapters,
             dongles=2),
    Scenario("pair", "straps that send nothing before they are paired", pair, pairing=True),
    Scenario("slots", "six straps on a dongle that holds four links", slots, straps=6, most_links=4),
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

"""The whole chain on this machine, without an account: straps, two gateways, both ways to the bucket, answers in SQL.

    local.py [--fogbeat FILE] [--straps N] [--minutes M] [--keep DIR]

moto plays AWS, Mosquitto with mutual TLS plays AWS IoT's device gateway (see service.py), DuckDB plays Athena; the
stack's resources are those of config/aws/stack.yaml. One gateway delivers by Firehose, with credentials for its
certificate, the other by MQTT to the stack's rule; both enrol with a claim first; one strap is heard by both. Ends with 0
when every published reading is in the bucket and each query has its answer, else with 1.
"""

import argparse
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import zlib
from datetime import datetime, timedelta, timezone
from pathlib import Path

import ask
import stack
from moto_stack import Stack
from service import Bridge, Broker, CredentialProvider, Pki, Provisioning, free_port, wait_for

PROJECT = Path(__file__).resolve().parents[2]
# Long enough for a debug build on a busy machine.
PATIENCE_S = 120
SHOWN_ROWS = 4


def say(text):
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def hearts(n, minutes, start):
    """A strap's payloads, one a second: a recorded heart (MIT-BIH record 100), its stamps, sometimes no contact."""
    rows = (PROJECT / "tests/data/mitdb/100_rr.csv").read_text().splitlines()[1:]
    intervals = [float(row.split(",")[2]) for row in rows]
    chance, beat, place = random.Random(n), 0.0, n * 97 % len(intervals)
    for second in range(minutes * 60):
        now, rr = (second + 1) * 1000, []
        while beat + intervals[place] <= now:
            beat += intervals[place]
            rr.append(round(intervals[place]))
            place = (place + 1) % len(intervals)
        said = {"time": int(start.timestamp() * 1000) + now, "bpm": round(60_000 / intervals[place])}
        if rr:
            said["rr_ms"] = rr
        if second % 60 == 0:
            said["battery"] = 90 - n - second // 600
        if chance.random() < 0.01:
            said |= {"contact": False}
        yield json.dumps(said)


class Gateway:
    """A fogbeat with the configuration that `fogbeat cloud config` makes of the stack's outputs."""

    def __init__(self, world, name, path):
        self.world, self.name = world, name
        self.folder = world.folder / name
        state = self.folder / "state"
        state.mkdir(parents=True)
        self.port = free_port()
        arguments = ["cloud", "config", "--stack-output", world.outputs, "--path", path]
        settings = world.fogbeat(*arguments)
        # What differs on a laptop: where the services are, and who signs for them.
        ca = f"ca = {json.dumps(str(world.pki.ca))}\n"
        settings = settings.replace('kind = "firehose"\n', f'kind = "firehose"\nendpoint_url = "{world.moto}"\n')
        # ("Beside Firehose" is an offer: a comment.)
        settings = settings.replace('\nkind = "iot_core"\n', f'\nkind = "iot_core"\nport = {world.broker.tls}\n{ca}')
        settings = settings.replace("[aws.iot_credentials]\n", f"[aws.iot_credentials]\n{ca}")
        text = (
            f'[gateway]\nid = "{name}"\nsite = "gym"\nstate_dir = {json.dumps(str(state))}\n'
            f'[clock]\ntrust = "always"\n[http]\nenabled = false\n[batch]\nmax_age = "10s"\n'
            f'[mqtt.listener]\nbind = "127.0.0.1:{self.port}"\nanonymous = true\n{settings}'
        )
        tomllib.loads(text)
        self.config = self.folder / "fogbeat.toml"
        self.config.write_text(text)
        # The claim is the same for the whole fleet, and gone afterwards.
        claim = [self.folder / "claim.pem", self.folder / "claim.key"]
        world.pki.issue("claim", *claim)
        outputs = world.made.outputs
        world.fogbeat(
            "enroll", "--config", self.config, "--endpoint", outputs["DataEndpoint"], "--port", str(world.broker.tls),
            "--ca", world.pki.ca, "--template", outputs["ProvisioningTemplate"], "--claim-cert", claim[0],
            "--claim-key", claim[1],
        )
        assert not any(path.exists() for path in claim), "the claim is still there"
        self.log = open(self.folder / "log", "w")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "FOGBEAT_"))}
        command = [world.binary, "run", "--config", self.config]
        self.process = subprocess.Popen(command, stderr=self.log, stdout=self.log, env=environment)
        wait_for(self.port, f"gateway {name} (see {self.folder}/log)")

    def publish(self, device, payloads):
        """Everything with QoS 1; returns when all of it is acknowledged."""
        words = ["-h", "127.0.0.1", "-p", str(self.port), "-q", "1", "-i", f"{device}-{self.name}", "-t", f"hr/{device}", "-l"]
        return subprocess.Popen(["mosquitto_pub", *words], stdin=subprocess.PIPE, text=True), payloads

    def queued(self):
        status = json.loads(self.world.fogbeat("status", "--json", "--config", self.config))
        return sum(uplink["queued_readings"] for uplink in status["uplinks"])

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE_S)
        self.log.close()


class World:
    def __init__(self, folder, binary):
        self.folder, self.binary = folder, binary
        self.stops = []
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def start(self):
        folder = self.folder
        port = free_port()
        self.moto = f"http://127.0.0.1:{port}"
        server = Path(sys.executable).parent / "moto_server"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([server, "-H", "127.0.0.1", "-p", str(port)], **quiet)
        self.stops.append(lambda: (process.kill(), process.wait()))
        wait_for(port, "moto")

        self.made = Stack(self.moto, SiteName="gym", Path="both")
        self.pki = Pki(folder / "pki")
        # moto takes conditions of a bucket's policy for given, and so would let nobody in.
        self.made.client("s3").delete_bucket_policy(Bucket=self.made.outputs["Bucket"])
        get_policy = self.made.client("iot").get_policy
        policies = [self.made.outputs[name] for name in ("GatewayPolicy", "ClaimPolicy")]
        policies = [json.loads(get_policy(policyName=name)["policyDocument"]) for name in policies]
        self.broker = self.started(Broker(self.pki.folder, self.pki, *policies))
        self.provisioning = self.started(Provisioning(self.broker, self.pki, self.made))
        self.bridge = self.started(Bridge(self.broker, self.made))
        self.provider = self.started(CredentialProvider(self.pki.folder, self.pki, self.made))
        self.made.outputs |= {"DataEndpoint": "localhost", "CredentialEndpoint": f"localhost:{self.provider.port}"}
        self.outputs = folder / "stack.json"
        self.outputs.write_text(json.dumps(self.made.describe()))

    def started(self, thing):
        self.stops.append(thing.stop)
        return thing

    def fogbeat(self, *arguments):
        done = subprocess.run([self.binary, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"fogbeat {arguments[0]} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def stop(self):
        while self.stops:
            self.stops.pop()()

    def objects(self):
        """What Firehose has written: (key, time, bytes)."""
        s3, bucket = self.made.client("s3"), self.made.outputs["Bucket"]
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="readings/"):
            for item in page.get("Contents", []):
                yield item["Key"], item["LastModified"], s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()

    def fetch(self, lake):
        """The bucket as it would be: moto leaves the prefix's time and the file extension out of the keys."""
        members = []
        for number, (_, at, data) in enumerate(self.objects()):
            folder = lake / f"readings/dt={at:%Y-%m-%d}/hour={at:%H}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.json.gz").write_bytes(data)
            members += [len(member) for member in split(data)]
        return members


def split(data):
    """The gzip members of an object."""
    while data:
        inflate = zlib.decompressobj(wbits=31)
        inflate.decompress(data)
        size = len(data) - len(inflate.unused_data)
        yield data[:size]
        data = inflate.unused_data


def until(what, holds):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE_S} s: {what}")
        time.sleep(0.5)


def show(name, rows):
    print(f"\n-- {name}")
    if not rows:
        print("   no rows")
        return
    cells = [list(rows[0])] + [["" if v is None else str(v)[:23] for v in row.values()] for row in rows[:SHOWN_ROWS]]
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    for row in cells:
        print("   " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    if len(rows) > SHOWN_ROWS:
        print(f"   ... {len(rows)} rows")


def prices(members, readings):
    """USD for a million readings, with these records."""
    listed = tomllib.loads((stack.AWS / "prices.toml").read_text())
    unit = listed["firehose"]["rounded_up_to"]
    units = sum(-(-size // unit) for size in members)
    firehose = units * unit / 2**30 * listed["firehose"]["per_gb"]
    rules = units / 1e6 * (listed["iot"]["per_million_rules"] + listed["iot"]["per_million_actions"])
    return firehose / readings * 1e6, (firehose + rules) / readings * 1e6


def story(world, straps, minutes):
    skipped = ", ".join(world.made.skipped)
    say(f"the stack is made in moto: {len(world.made.resources)} resources (without an API there: {skipped})")
    gateways = [world.started(Gateway(world, "gym-12", "firehose")), world.started(Gateway(world, "gym-13", "iot"))]
    say("both have enrolled: a claim certificate for one of their own, the key made on the gateway")
    say("gym-12 delivers by Firehose, with credentials for its certificate; gym-13 by MQTT over mutual TLS")

    start = datetime.now(timezone.utc) - timedelta(minutes=minutes + 5)
    published, running = {}, []
    for n in range(straps):
        device = f"strap-{n + 1}"
        # The last one stands between the two.
        for gateway in gateways if n == straps - 1 else [gateways[n % 2]]:
            payloads = list(hearts(n, minutes, start))
            published[device, gateway.name] = len(payloads)
            running.append(gateway.publish(device, payloads))
    for process, payloads in running:
        process.stdin.write("\n".join(payloads) + "\n")
        process.stdin.close()
    assert all(process.wait(PATIENCE_S) == 0 for process, _ in running), "a strap was not acknowledged"
    total = sum(published.values())
    say(f"{straps} straps, {minutes} minutes of hearts: {total} readings published and acknowledged")

    # A gateway's certificate is all that this needs, and all that it allows.
    alert = {"type": "alert", "alert": "high", "gateway": "gym-13", "site": "gym", "device": "strap-1", "bpm": 191}
    state = gateways[1].folder / "state/iot"
    tls = ["--cafile", world.pki.ca, "--cert", state / "certificate.pem", "--key", state / "private.key"]
    words = ["-h", "localhost", "-p", str(world.broker.tls), "-q", "1", "-t", "$aws/rules/fogbeat_gym_alerts/gym-13"]
    subprocess.run(["mosquitto_pub", *words, *tls, "-m", json.dumps(alert)], check=True)
    until("the alert is told", lambda: world.bridge.alerts == 1)
    say("an alert went by rule and Lambda to SNS")

    until("everything is delivered", lambda: all(gateway.queued() == 0 for gateway in gateways))
    for gateway in gateways:
        gateway.stop()

    def arrived():
        count = lambda data: gzip.decompress(data).count(b'"device":')
        return sum(count(data) for _, _, data in world.objects()) >= total

    until("everything is in the bucket", arrived)
    lake = world.folder / "lake"
    members = world.fetch(lake)
    faults = world.bridge.errors + world.provisioning.errors
    db = ask.open_lake(f"{lake}/readings/*/*/*.json.gz", None)
    found = db.execute(
        "SELECT device, gateway, count(DISTINCT id) FROM lines WHERE type IS NULL GROUP BY device, gateway"
    ).fetchall()
    for key in published.keys() | {(device, gateway) for device, gateway, _ in found}:
        there = {(device, gateway): count for device, gateway, count in found}.get(key, 0)
        if there != published.get(key, 0):
            faults.append(f"{key}: {published.get(key, 0)} published, {there} in the bucket")
    say(f"in the bucket: {len(members)} gzip members, {sum(members)} bytes, {sum(members) / total:.1f} bytes a reading")
    firehose, basic = prices(members, total)
    say(f"a million such readings: ${firehose:.5f} by Firehose, ${basic:.5f} by Basic Ingest; one record each: $0.138 and $0.438")

    everything = sorted((path.stem for path in stack.queries()), key=lambda name: (name == "parquet_daily", name))
    print("\nWhat Athena would answer (DuckDB, the same statements):")
    tomorrow = f"{datetime.now(timezone.utc) + timedelta(days=1):%Y-%m-%d}"
    for name in everything:
        # What is delivered today goes to Parquet tomorrow.
        rows = ask.ask(db, ask.statement(name, tomorrow if name == "parquet_daily" else None, "UTC"))
        show(name, rows)
        if not rows:
            faults.append(f"{name} has no answer")
    converted = db.execute("SELECT count(DISTINCT id) FROM lines_parquet WHERE type IS NULL").fetchone()[0]
    if converted != total:
        faults.append(f"{converted} readings in Parquet, {total} were delivered")
    once = db.execute("SELECT count(*) FROM readings").fetchone()[0]
    if once != straps * minutes * 60:
        faults.append(f"{once} readings without duplicates, {straps * minutes * 60} were measured")
    if not world.provider.given or set(world.provider.given) != {"gym-12"}:
        faults.append(f"credentials went to {world.provider.given}")
    if world.provisioning.things != ["gym-12", "gym-13"]:
        faults.append(f"enrolled: {world.provisioning.things}")
    if not world.bridge.payloads:
        faults.append("nothing came by MQTT")
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fogbeat", type=Path, default=PROJECT / "target/release/fogbeat")
    parser.add_argument("--straps", type=int, default=12)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    if not options.fogbeat.exists():
        sys.exit(f"{options.fogbeat} is not there: cargo build --release, or name one with --fogbeat")
    folder = options.keep or Path(tempfile.mkdtemp(prefix="fogbeat-cloud-"))
    folder.mkdir(parents=True, exist_ok=True)
    world = None
    try:
        world = World(folder.resolve(), options.fogbeat.resolve())
        faults = story(world, options.straps, options.minutes)
    finally:
        if world:
            world.stop()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print()
    for fault in faults:
        say(f"FAULT: {fault}")
    say("The chain held: every reading is in the bucket, once by its id." if not faults else "The chain did not hold.")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

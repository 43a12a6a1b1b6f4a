"""How each peer is set up: as an operator would who wants nothing lost. Each takes readings at 127.0.0.1:IN and delivers them to
127.0.0.1:OUT; its state is on its own disk."""

import json
import os
import pathlib

IN, OUT = 21883, 21884


def broker(state: pathlib.Path, extra: str = "") -> tuple[list[str], str]:
    """Mosquitto with persistence. Its database is written as often as its settings can say (whole seconds); by default it
    is every half hour."""
    (state / "broker").mkdir(parents=True, exist_ok=True)
    text = f"""
listener {IN} 127.0.0.1
allow_anonymous true
user root
persistence true
persistence_location {state}/broker/
autosave_interval 1
max_queued_messages 0
max_inflight_messages 100
log_type error
{extra}"""
    return ["mosquitto", "-c"], text


class Peer:
    name = form = note = ""
    # Connections to the broker at IN that are the peer's own: it takes readings once they are there.
    inner = 0

    def prepare(self, state: pathlib.Path, place: pathlib.Path) -> list[list[str]]:
        """Writes the configuration; returns the commands that run, in this order."""
        raise NotImplementedError

    def environment(self, state: pathlib.Path) -> dict[str, str]:
        return {}


class Fogbeat(Peer):
    name, form = "fogbeat", "fogbeat"
    note = "batches of 10 s, else default settings; what comes twice has the same id; 32 MB on disk are its reserve against a full disk"

    def prepare(self, state, place):
        config = place / "fogbeat.toml"
        config.write_text(
            f"""[gateway]
id = "bench"
state_dir = "{state}/fogbeat"
[clock]
trust = "always"
[mqtt.listener]
bind = "127.0.0.1:{IN}"
anonymous = true
[http]
enabled = false
[ble]
enabled = false
[batch]
max_age = "10s"
[[uplink]]
kind = "mqtt"
url = "mqtt://127.0.0.1:{OUT}"
topic = "fogbeat/members/bench"
version = "3.1.1"
"""
        )
        return [[os.environ["FOGBEAT_BIN"], "run", "--config", str(config)]]


class Mosquitto(Peer):
    name, form = "Mosquitto bridge", "plain"
    note = "QoS 1, persistence, written every second (autosave_interval 1; its default is 1800)"

    def prepare(self, state, place):
        command, text = broker(
            state,
            f"""
connection cloud
address 127.0.0.1:{OUT}
topic hr/# out 1
cleansession false
try_private false
notifications false
restart_timeout 1 5
bridge_protocol_version mqttv311
""",
        )
        config = place / "mosquitto.conf"
        config.write_text(text)
        return [[*command, str(config)]]


class NodeRed(Peer):
    name, form, inner = "Node-RED", "plain", 1
    note = "behind Mosquitto (QoS 1, persistent session, written every second); its own queue is in memory"

    def prepare(self, state, place):
        command, text = broker(state)
        config = place / "mosquitto.conf"
        config.write_text(text)
        user = state / "nodered"
        user.mkdir(parents=True, exist_ok=True)
        common = {"type": "mqtt-broker", "keepalive": "30", "protocolVersion": "4", "autoConnect": True}
        flow = [
            {"id": "tab", "type": "tab", "label": "bench"},
            {**common, "id": "local", "broker": "127.0.0.1", "port": str(IN), "clientid": "nodered-in", "cleansession": False},
            {**common, "id": "cloud", "broker": "127.0.0.1", "port": str(OUT), "clientid": "nodered-out", "cleansession": False},
            {"id": "in", "type": "mqtt in", "z": "tab", "topic": "hr/#", "qos": "1", "datatype": "buffer", "broker": "local", "inputs": 0, "wires": [["out"]]},
            {"id": "out", "type": "mqtt out", "z": "tab", "topic": "", "qos": "1", "retain": "", "broker": "cloud", "wires": []},
        ]
        (user / "flows.json").write_text(json.dumps(flow))
        (user / "settings.js").write_text(
            "module.exports = { flowFile: 'flows.json', httpAdminRoot: false, httpNodeRoot: false, "
            "mqttReconnectTime: 1000, logging: { console: { level: 'error' } }, telemetry: { enabled: false } }"
        )
        program = place.parent / "nodered/node_modules/node-red/red.js"
        return [[*command, str(config)], ["node", str(program), "--userDir", str(user), "--port", "21880"]]


class ThingsBoard(Peer):
    name, form, inner = "thingsboard-gateway", "thingsboard", 1
    note = "behind Mosquitto (QoS 1, persistent session, written every second); SQLite storage, no rate limits"

    def prepare(self, state, place):
        command, text = broker(state)
        config = place / "mosquitto.conf"
        config.write_text(text)
        folder = state / "thingsboard"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
        limits = ["rateLimits", "dpRateLimits", "messagesRateLimits", "deviceMessagesRateLimits", "deviceRateLimits", "deviceDpRateLimits"]
        (folder / "tb_gateway.json").write_text(
            json.dumps(
                {
                    "thingsboard": {
                        "host": "127.0.0.1",
                        "port": OUT,
                        "remoteShell": False,
                        "remoteConfiguration": False,
                        "statistics": {"enable": False},
                        "maxPayloadSizeBytes": 65536,
                        "minPackSendDelayMS": 50,
                        "minPackSizeToSend": 500,
                        "security": {"type": "accessToken", "accessToken": "bench"},
                        "qos": 1,
                        "reportStrategy": {"type": "ON_RECEIVED"},
                        **{limit: "0:0," for limit in limits},
                    },
                    "storage": {
                        "type": "sqlite",
                        "data_file_path": f"{folder}/data/",
                        "messages_ttl_check_in_hours": 1,
                        "messages_ttl_in_days": 7,
                        "max_read_records_count": 1000,
                    },
                    "grpc": {"enabled": False},
                    "connectors": [{"type": "mqtt", "name": "straps", "configuration": "mqtt.json"}],
                }
            )
        )
        (folder / "mqtt.json").write_text(
            json.dumps(
                {
                    "broker": {
                        "host": "127.0.0.1",
                        "port": IN,
                        "clientId": "thingsboard-in",
                        "version": 4,
                        "maxMessageNumberPerWorker": 10,
                        "maxNumberOfWorkers": 100,
                        "cleanSession": False,
                        "security": {"type": "anonymous"},
                    },
                    "mapping": [
                        {
                            "topicFilter": "hr/+",
                            "subscriptionQos": 1,
                            "converter": {
                                "type": "json",
                                "deviceInfo": {
                                    "deviceNameExpressionSource": "topic",
                                    "deviceNameExpression": "(?<=hr/)(.*)",
                                    "deviceProfileExpressionSource": "constant",
                                    "deviceProfileExpression": "strap",
                                },
                                "timeout": 60000,
                                "attributes": [],
                                "timeseries": [
                                    {"type": "integer", "key": "bpm", "value": "${bpm}"},
                                    {"type": "integer", "key": "time", "value": "${time}"},
                                ],
                            },
                        }
                    ],
                }
            )
        )
        (folder / "logs.json").write_text(
            json.dumps({"version": 1, "disable_existing_loggers": False, "root": {"level": "ERROR", "handlers": []}})
        )
        return [[*command, str(config)], [str(place.parent / "venv/bin/thingsboard-gateway")]]

    def environment(self, state):
        return {"TB_GW_CONFIG_DIR": f"{state}/thingsboard/", "TB_GW_LOGS_PATH": f"{state}/thingsboard/logs"}


ALL = {"fogbeat": Fogbeat, "mosquitto": Mosquitto, "thingsboard": ThingsBoard, "nodered": NodeRed}

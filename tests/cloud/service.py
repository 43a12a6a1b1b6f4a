"""What plays AWS IoT on a laptop: a CA, Mosquitto with mutual TLS as the device gateway, a bridge as the rules engine,
fleet provisioning, and the credential provider. Rules, roles, policies and the provisioning template are the stack's.

Unlike the service, Mosquitto keeps no message over a restart, and the bridge hands on what it gets once. Limits are not
enforced.
"""

import datetime
import http.server
import ipaddress
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from moto_stack import run_inline


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, what):
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"{what} does not listen on {port}")
            time.sleep(0.05)


class Pki:
    """A certificate authority, and what it has issued, as PEM files."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA for the laptop")])
        builder = self.builder(name, self.key.public_key(), name)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = builder.sign(self.key, hashes.SHA256())
        self.ca = self.folder / "ca.pem"
        self.ca.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def builder(self, subject, public_key, issuer):
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=90))
        )

    def issue(self, name, certificate, key, server=False):
        """A certificate with this common name, and its key, into these files."""
        secret = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self.builder(subject, secret.public_key(), self.certificate.subject)
        if server:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        for path in (certificate, key):
            path.parent.mkdir(parents=True, exist_ok=True)
        signed = builder.sign(self.key, hashes.SHA256())
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        key.touch(mode=0o600)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        key.write_bytes(secret.private_bytes(*form))


class Broker:
    """Mosquitto: a port with mutual TLS and the stack's policy, and one for the bridge."""

    def __init__(self, folder, pki, policy, claim):
        self.tls, self.plain = free_port(), free_port()
        certificate, key = folder / "server.pem", folder / "server.key"
        pki.issue("localhost", certificate, key, server=True)
        access = folder / "access"
        access.write_text(self.access(policy) + self.claim_access(claim))
        settings = folder / "mosquitto.conf"
        settings.write_text(
            f"per_listener_settings true\nuser root\npersistence false\nmax_queued_messages 0\n"
            f"log_dest file {folder}/mosquitto.log\n"
            f"listener {self.plain} 127.0.0.1\nallow_anonymous true\n"
            f"listener {self.tls} 127.0.0.1\nallow_anonymous true\ncafile {pki.ca}\ncertfile {certificate}\n"
            f"keyfile {key}\nrequire_certificate true\nuse_identity_as_username true\nacl_file {access}\n"
        )
        program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
        assert program, "mosquitto is missing: .ci/tools.sh installs it"
        self.process = subprocess.Popen([program, "-c", settings], stderr=subprocess.DEVNULL)
        wait_for(self.plain, "mosquitto")

    @staticmethod
    def grants(policy):
        """What a policy lets its certificate do with topics: (read or write, topic)."""
        verbs = {"iot:Publish": "write", "iot:Receive": "read"}
        for statement in policy["Statement"]:
            actions, resources = statement["Action"], statement["Resource"]
            for action in [actions] if isinstance(actions, str) else actions:
                for resource in [resources] if isinstance(resources, str) else resources:
                    topic = re.fullmatch(r"[^/]*:topic/(.*)", resource)
                    if action in verbs and topic:
                        yield verbs[action], topic.group(1).replace("*", "#")

    @classmethod
    def access(cls, policy):
        """A gateway's policy as Mosquitto's access list: the certificate's name is the thing's."""
        grants = [(verb, topic.replace("${iot:Connection.Thing.ThingName}", "%u")) for verb, topic in cls.grants(policy)]
        return "".join(f"pattern {verb} {topic}\n" for verb, topic in grants)

    @classmethod
    def claim_access(cls, policy):
        return "user claim\n" + "".join(f"topic {verb} {topic}\n" for verb, topic in cls.grants(policy))

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Listener:
    """Hears everything below some topics, and does something with it; what fails is kept in `errors`."""

    def __init__(self, broker, topics):
        self.errors = []
        words = ["-h", "127.0.0.1", "-p", str(broker.plain), "-q", "1", "-F", "%t %x", "-d"]
        words += [word for topic in topics for word in ("-t", topic)]
        # Line by line: into a pipe it would keep what it has for itself.
        command = ["stdbuf", "-oL", "mosquitto_sub", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        subscribed = threading.Event()
        self.thread = threading.Thread(target=self.run, args=[subscribed], daemon=True)
        self.thread.start()
        if not subscribed.wait(30):
            self.process.kill()
            raise SystemExit(f"no subscription to {topics}")

    def run(self, subscribed):
        for line in self.process.stdout:
            if line.startswith("Subscribed"):
                subscribed.set()
            if line.startswith("$aws/"):
                topic, _, payload = line.rstrip("\n").partition(" ")
                try:
                    self.hear(topic, bytes.fromhex(payload))
                except Exception as error:  # Told at the end: the story must not go on as if nothing had happened.
                    self.errors.append(f"{topic}: {error!r}")

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.thread.join()


class Bridge(Listener):
    """The rules engine: what is published on `$aws/rules/<rule>/...` goes to the actions of that rule."""

    def __init__(self, broker, made):
        self.made = made
        self.payloads = []
        self.alerts = 0
        iot = made.client("iot")
        self.rules = {
            rule["ruleName"]: iot.get_topic_rule(ruleName=rule["ruleName"])["rule"]
            for rule in iot.list_topic_rules()["rules"]
        }
        function = made.made["AlertFunction"]
        self.function = run_inline(function["Code"], made.client, function["Environment"]["Variables"])["handler"]
        super().__init__(broker, ["$aws/rules/#"])

    def hear(self, topic, payload):
        name = topic.split("/")[2]
        # SELECT *: the payload as it is.
        for action in self.rules[name]["actions"]:
            if "firehose" in action:
                stream = action["firehose"]["deliveryStreamName"]
                self.made.client("firehose").put_record(DeliveryStreamName=stream, Record={"Data": payload})
                self.payloads.append(len(payload))
            elif "lambda" in action:
                self.alerts += self.function(json.loads(payload), None)["alerts"]


class Provisioning(Listener):
    """Fleet provisioning by claim: CreateCertificateFromCsr, and RegisterThing as the stack's template says."""

    def __init__(self, broker, pki, made):
        self.broker, self.pki, self.made = broker, pki, made
        self.certificates, self.things = {}, []
        name = made.outputs["ProvisioningTemplate"]
        self.template = json.loads(made.value(made.template["Resources"]["Provisioning"]["Properties"]["TemplateBody"]))
        self.create, self.provision = "$aws/certificates/create-from-csr/json", f"$aws/provisioning-templates/{name}/provision/json"
        super().__init__(broker, [self.create, self.provision])

    def hear(self, topic, payload):
        try:
            asked = json.loads(payload)
            answer = self.created(asked) if topic == self.create else self.registered(asked)
            self.answer(f"{topic}/accepted", answer)
        except (KeyError, ValueError) as error:
            code = {"statusCode": 400, "errorCode": "InvalidParameters", "errorMessage": repr(error)}
            self.answer(f"{topic}/rejected", code)

    def answer(self, topic, body):
        words = ["-h", "127.0.0.1", "-p", str(self.broker.plain), "-q", "1", "-t", topic, "-m", json.dumps(body)]
        subprocess.run(["mosquitto_pub", *words], check=True)

    def created(self, asked):
        request = x509.load_pem_x509_csr(asked["certificateSigningRequest"].encode())
        builder = self.pki.builder(request.subject, request.public_key(), self.pki.certificate.subject)
        certificate = builder.sign(self.pki.key, hashes.SHA256())
        token = f"token-{len(self.certificates)}"
        number = certificate.fingerprint(hashes.SHA256()).hex()
        self.certificates[token] = number
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        return {"certificateId": number, "certificatePem": pem, "certificateOwnershipToken": token}

    def registered(self, asked):
        given = asked["parameters"] | {"AWS::IoT::Certificate::Id": self.certificates.pop(asked["certificateOwnershipToken"])}
        if given.keys() != self.template["Parameters"].keys():
            raise ValueError(f"parameters {sorted(given)}, the template has {sorted(self.template['Parameters'])}")
        resources = self.template["Resources"]
        thing = given[resources["thing"]["Properties"]["ThingName"]["Ref"]]
        self.made.client("iot").create_thing(thingName=thing)
        self.made.client("iot").get_policy(policyName=resources["policy"]["Properties"]["PolicyName"])
        self.things.append(thing)
        return {"thingName": thing, "deviceConfiguration": {}}


class CredentialProvider:
    """Temporary credentials of moto's STS for a certificate, over mutual TLS, as the role alias says."""

    def __init__(self, folder, pki, made):
        sts, iot = made.client("sts"), made.client("iot")
        self.given = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler):
                subject = dict(pair[0] for pair in handler.connection.getpeercert()["subject"])
                thing = handler.headers.get("x-amzn-iot-thingname")
                match = re.fullmatch(r"/role-aliases/([\w-]+)/credentials", handler.path)
                if not match or thing != subject["commonName"]:
                    return handler.answer(403, {"message": "Access Denied"})
                alias = iot.describe_role_alias(roleAlias=match.group(1))["roleAliasDescription"]
                role = sts.assume_role(RoleArn=alias["roleArn"], RoleSessionName=thing)["Credentials"]
                self.given.append(thing)
                expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(
                    seconds=alias["credentialDurationSeconds"]
                )
                handler.answer(200, {"credentials": {
                    "accessKeyId": role["AccessKeyId"],
                    "secretAccessKey": role["SecretAccessKey"],
                    "sessionToken": role["SessionToken"],
                    "expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                }})

            def answer(handler, status, body):
                data = json.dumps(body).encode()
                handler.send_response(status)
                handler.send_header("content-length", str(len(data)))
                handler.end_headers()
                handler.wfile.write(data)

            def log_message(self, *_):
                pass

        certificate, key = folder / "provider.pem", folder / "provider.key"
        pki.issue("localhost", certificate, key, server=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(pki.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

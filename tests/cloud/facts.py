"""Makes the stack in moto and tells, as JSON, what the services then say of it; and what its alert function does.

    facts.py ENDPOINT [Parameter=Value ...]
"""

import base64
import json
import re
import sys

import stack
from moto_stack import Stack, run_inline


def view_text(table):
    """The SQL that a view holds, and the columns that it promises."""
    packed = re.fullmatch(r"/\* Presto View: (\S+) \*/", table["ViewOriginalText"]).group(1)
    view = json.loads(base64.b64decode(packed))
    file = stack.sql(stack.AWS / "views" / f"{table['Name']}.sql")[1]
    columns = [column["name"] for column in view["columns"]]
    return {
        "as_its_file": view["originalSql"].split() == file.split(),
        "schema": view["schema"],
        "columns": columns == [column["Name"] for column in table["StorageDescriptor"]["Columns"]],
    }


def allowed(made):
    """Everything that any role or certificate may do: {who: [[action, resource], ...]}."""
    found = {}

    def note(who, document):
        for statement in document["Statement"]:
            if statement["Effect"] != "Allow":
                continue
            actions, resources = statement["Action"], statement["Resource"]
            for action in [actions] if isinstance(actions, str) else actions:
                for resource in [resources] if isinstance(resources, str) else resources:
                    found.setdefault(who, []).append([action, resource])

    for name, resource in made.template["Resources"].items():
        if name not in made.made:
            continue
        properties = made.value(resource.get("Properties", {}))
        if resource["Type"] == "AWS::IAM::Role":
            for policy in properties.get("Policies", []):
                note(name, policy["PolicyDocument"])
        elif resource["Type"] == "AWS::IoT::Policy":
            note(name, properties["PolicyDocument"])
    return found


def alerts(made):
    """What comes out of SNS when the function gets these."""
    sqs, sns, topic = made.client("sqs"), made.client("sns"), made.outputs["AlertTopic"]
    queue = sqs.create_queue(QueueName="inbox")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    function = made.made["AlertFunction"]
    handler = run_inline(function["Code"], made.client, function["Environment"]["Variables"])["handler"]

    alert = {
        "id": "k3v9-7", "type": "alert", "gateway": "gym-12", "site": "gym", "device": "strap-17",
        "time": "2026-11-23T18:30:00.000Z", "alert": "high", "bpm": 191, "limit": 185, "message": "above 185 for 60 s",
    }
    strange = {"type": "alert", "alert": "näch\nste\r\n" + "x" * 200, "gateway": "gym-12"}
    answers = [
        handler(alert, None),
        handler([alert | {"id": "k3v9-8"}, strange], None),
        handler({"type": "end"}, None),
        handler([], None),
        handler("no object", None),
    ]
    told = []
    while True:
        received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        if not received:
            return {"answers": answers, "told": told}
        for message in received:
            body = json.loads(message["Body"])
            attributes = {name: a["Value"] for name, a in body.get("MessageAttributes", {}).items()}
            told.append({"subject": body["Subject"], "message": body["Message"], "attributes": attributes})
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    made = Stack(sys.argv[1], **dict(word.split("=", 1) for word in sys.argv[2:]))
    client = made.client
    bucket = made.outputs["Bucket"]
    s3, glue, athena, iot = client("s3"), client("glue"), client("athena"), client("iot")
    stream = client("firehose").describe_delivery_stream(DeliveryStreamName="fogbeat-gym")
    destination = stream["DeliveryStreamDescription"]["Destinations"][0]["ExtendedS3DestinationDescription"]
    tables = {table["Name"]: table for table in glue.get_tables(DatabaseName="fogbeat_gym")["TableList"]}
    queries = [
        athena.get_named_query(NamedQueryId=number)["NamedQuery"]
        for number in athena.list_named_queries(WorkGroup="fogbeat-gym")["NamedQueryIds"]
    ]
    files = {path.stem: stack.sql(path)[1].replace("BUCKET", bucket) for path in stack.queries()}
    rules = {
        rule["ruleName"]: iot.get_topic_rule(ruleName=rule["ruleName"])["rule"] for rule in iot.list_topic_rules()["rules"]
    }
    facts = {
        "skipped": made.skipped,
        "kinds": made.resources,
        "stack": made.describe(),
        "bucket": {
            "encryption": s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"],
            "public": s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"],
            "policy": json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"]),
            "lifecycle": s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"],
        },
        "stream": destination,
        "rules": rules,
        "lines": tables["lines"],
        "views": {name: view_text(tables[name]) for name in stack.VIEWS},
        "queries": {query["Name"]: query["QueryString"].split() == files[query["Name"]].split() for query in queries},
        "workgroup": athena.get_work_group(WorkGroup="fogbeat-gym")["WorkGroup"]["Configuration"],
        "allowed": allowed(made),
        "alerts": alerts(made),
    }
    print(json.dumps(facts, default=str))


if __name__ == "__main__":
    main()

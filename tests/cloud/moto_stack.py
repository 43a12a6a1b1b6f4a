"""Makes the stack's resources in moto, by the services' own APIs.

    moto_stack.py ENDPOINT [Parameter=Value ...]      prints what `aws cloudformation describe-stacks` would

moto's CloudFormation knows few of the resource types. So the template is evaluated here (Ref, GetAtt, Sub, If, ...) and
each resource goes to its service through boto3, which holds every name and value against the real API's model first. The
custom resource runs the template's own function. What moto has no API for is listed under `skipped`.
"""

import base64
import io
import json
import re
import sys
import types
import zipfile

import boto3
from botocore.exceptions import ClientError

import stack

ACCOUNT = "123456789012"
REGION = "eu-west-1"
# moto answers these with an error of its own.
NOT_IN_MOTO = {"AWS::IoT::ProvisioningTemplate"}


def clients(endpoint):
    def client(service):
        return boto3.client(
            service, endpoint_url=endpoint, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
        )

    return client


def run_inline(code, client, environment=None, **modules):
    """The names that a function's inline code defines, with boto3 against moto."""
    fake = types.ModuleType("boto3")
    fake.client = client
    fresh = {"boto3": fake, **modules}
    before = {name: sys.modules.get(name) for name in fresh}
    names = {"__name__": "index"}
    try:
        sys.modules.update(fresh)
        exec(compile(code, "index.py", "exec"), names)
        if environment:
            names["os"].environ.update(environment)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return names


def lower_first(value):
    """CloudFormation writes AWS IoT's keys with a capital, the API without; and S3 in a word of its own."""
    if isinstance(value, dict):
        return {key[0].lower() + key[1:]: lower_first(item) for key, item in value.items()}
    if isinstance(value, list):
        return [lower_first(item) for item in value]
    return value


class Absent(Exception):
    """A resource whose condition does not hold."""


class Stack:
    def __init__(self, endpoint, **parameters):
        self.template = stack.load()
        self.client = clients(endpoint)
        self.parameters = {name: p.get("Default") for name, p in self.template["Parameters"].items()}
        unknown = parameters.keys() - self.parameters.keys()
        assert not unknown, f"no such parameters: {unknown}"
        self.parameters |= parameters
        self.made = {}
        self.skipped = []
        self.resources = {}
        for name in self.template["Resources"]:
            if self.present(name):
                self.make(name)
        self.outputs = {
            name: self.value(output["Value"])
            for name, output in self.template["Outputs"].items()
            if "Condition" not in output or self.condition(output["Condition"])
        }

    def describe(self):
        outputs = [{"OutputKey": name, "OutputValue": value} for name, value in self.outputs.items()]
        return {"Stacks": [{"StackName": "fogbeat", "StackStatus": "CREATE_COMPLETE", "Outputs": outputs}]}

    # --- The template's language

    def condition(self, name):
        return self.value(self.template["Conditions"][name])

    def present(self, name):
        condition = self.template["Resources"][name].get("Condition")
        return condition is None or self.condition(condition)

    def value(self, node):
        if isinstance(node, list):
            return [v for v in map(self.value, node) if v is not Absent]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (key, argument), = node.items()
            if key == "Ref":
                return self.ref(argument)
            if key.startswith("Fn::"):
                return getattr(self, "fn_" + key[4:].lower())(argument)
        values = {key: self.value(item) for key, item in node.items()}
        return {key: item for key, item in values.items() if item is not Absent}

    def ref(self, name):
        pseudo = {
            "AWS::AccountId": ACCOUNT, "AWS::Region": REGION, "AWS::Partition": "aws", "AWS::StackName": "fogbeat",
            "AWS::NoValue": Absent,
        }
        if name in pseudo:
            return pseudo[name]
        if name in self.parameters:
            return self.parameters[name]
        return self.make(name)["Ref"]

    def fn_getatt(self, argument):
        name, attribute = argument
        return self.make(name)[attribute]

    def fn_sub(self, argument):
        text, given = argument if isinstance(argument, list) else (argument, {})
        given = {key: self.value(item) for key, item in given.items()}

        def put(match):
            name = match.group(1)
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in given:
                return str(given[name])
            if "." in name:
                return str(self.fn_getatt(name.split(".", 1)))
            return str(self.ref(name))

        return re.sub(r"\$\{([^}]+)\}", put, text)

    def fn_if(self, argument):
        condition, yes, no = argument
        return self.value(yes if self.condition(condition) else no)

    def fn_equals(self, argument):
        left, right = map(self.value, argument)
        return str(left) == str(right)

    def fn_not(self, argument):
        return not self.value(argument[0])

    def fn_split(self, argument):
        separator, text = argument
        return self.value(text).split(separator)

    def fn_base64(self, argument):
        return base64.b64encode(self.value(argument).encode()).decode()

    # --- The resources

    def make(self, name):
        if name in self.made:
            return self.made[name]
        assert self.present(name), f"{name} is used where its condition does not hold"
        resource = self.template["Resources"][name]
        for needed in [resource.get("DependsOn", [])] if isinstance(resource.get("DependsOn"), str) else []:
            self.make(needed)
        properties = self.value(resource.get("Properties", {}))
        kind = resource["Type"]
        maker = getattr(self, "make_" + kind.split("::", 1)[1].replace("::", "_").lower())
        self.made[name] = maker(properties)
        self.resources[name] = kind
        if kind in NOT_IN_MOTO:
            self.skipped.append(name)
        return self.made[name]

    def make_s3_bucket(self, p):
        s3, name = self.client("s3"), p["BucketName"]
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        encryption = p["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        rules = [{"ApplyServerSideEncryptionByDefault": rule["ServerSideEncryptionByDefault"]} for rule in encryption]
        s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": rules})
        s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=p["PublicAccessBlockConfiguration"])
        s3.put_bucket_ownership_controls(Bucket=name, OwnershipControls=p["OwnershipControls"])
        life = []
        for rule in p["LifecycleConfiguration"]["Rules"]:
            told = {"ID": rule["Id"], "Status": rule["Status"], "Filter": {"Prefix": rule.get("Prefix", "")}}
            if "ExpirationInDays" in rule:
                told["Expiration"] = {"Days": int(rule["ExpirationInDays"])}
            if "AbortIncompleteMultipartUpload" in rule:
                told["AbortIncompleteMultipartUpload"] = rule["AbortIncompleteMultipartUpload"]
            life.append(told)
        s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": life})
        return {"Ref": name, "Arn": f"arn:aws:s3:::{name}"}

    def make_s3_bucketpolicy(self, p):
        self.client("s3").put_bucket_policy(Bucket=p["Bucket"], Policy=json.dumps(p["PolicyDocument"]))
        return {"Ref": p["Bucket"]}

    def make_kinesisfirehose_deliverystream(self, p):
        arn = self.client("firehose").create_delivery_stream(**p)["DeliveryStreamARN"]
        return {"Ref": p["DeliveryStreamName"], "Arn": arn}

    def make_logs_loggroup(self, p):
        logs, name = self.client("logs"), p["LogGroupName"]
        logs.create_log_group(logGroupName=name)
        logs.put_retention_policy(logGroupName=name, retentionInDays=p["RetentionInDays"])
        return {"Ref": name, "Arn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{name}:*"}

    def make_logs_logstream(self, p):
        self.client("logs").create_log_stream(**lower_first(p))
        return {"Ref": p["LogStreamName"]}

    def make_iam_role(self, p):
        iam = self.client("iam")
        service = p["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["Service"]
        name = f"role-{len(self.made)}-{service.split('.')[0]}"
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(p["AssumeRolePolicyDocument"]))
        for policy in p.get("Policies", []):
            document = json.dumps(policy["PolicyDocument"])
            iam.put_role_policy(RoleName=name, PolicyName=policy["PolicyName"], PolicyDocument=document)
        return {"Ref": name, "Arn": role["Role"]["Arn"]}

    def make_iot_policy(self, p):
        document = json.dumps(p["PolicyDocument"])
        # The service takes no longer one (white space not counted).
        assert len(document.replace(" ", "")) <= 2048, f"{p['PolicyName']}: {len(document)} characters"
        made = self.client("iot").create_policy(policyName=p["PolicyName"], policyDocument=document)
        return {"Ref": p["PolicyName"], "Arn": made["policyArn"]}

    def make_iot_rolealias(self, p):
        made = self.client("iot").create_role_alias(**lower_first(p))
        return {"Ref": p["RoleAlias"], "RoleAliasArn": made["roleAliasArn"]}

    def make_iot_topicrule(self, p):
        payload = lower_first(p["TopicRulePayload"])
        for action in [*payload["actions"], payload["errorAction"]]:
            if "s3" not in action and "S3" in action:
                action["s3"] = action.pop("S3")
        self.client("iot").create_topic_rule(ruleName=p["RuleName"], topicRulePayload=payload)
        return {"Ref": p["RuleName"], "Arn": f"arn:aws:iot:{REGION}:{ACCOUNT}:rule/{p['RuleName']}"}

    def make_iot_provisioningtemplate(self, p):
        body = json.loads(p["TemplateBody"])
        used = set(re.findall(r'"Ref": "([^"]+)"', p["TemplateBody"]))
        assert used <= body["Parameters"].keys(), used
        return {"Ref": p["TemplateName"]}

    def make_lambda_function(self, p):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("index.py", p["Code"]["ZipFile"])
        name = f"function-{len(self.made)}"
        settings = {key: item for key, item in p.items() if key != "Code"}
        made = self.client("lambda").create_function(FunctionName=name, Code={"ZipFile": packed.getvalue()}, **settings)
        return {"Ref": name, "Arn": made["FunctionArn"], "Code": p["Code"]["ZipFile"], "Environment": p.get("Environment")}

    def make_lambda_permission(self, p):
        self.client("lambda").add_permission(StatementId="iot", **p)
        return {"Ref": "iot"}

    def make_sns_topic(self, p):
        attributes = {"KmsMasterKeyId": p["KmsMasterKeyId"]}
        return {"Ref": self.client("sns").create_topic(Name=p["TopicName"], Attributes=attributes)["TopicArn"]}

    def make_sns_subscription(self, p):
        return {"Ref": self.client("sns").subscribe(**p)["SubscriptionArn"]}

    def make_glue_database(self, p):
        self.client("glue").create_database(**p)
        return {"Ref": p["DatabaseInput"]["Name"]}

    def make_glue_table(self, p):
        self.client("glue").create_table(**p)
        return {"Ref": p["TableInput"]["Name"]}

    def make_athena_workgroup(self, p):
        settings = {"Name": p["Name"], "Description": p["Description"], "Configuration": p["WorkGroupConfiguration"]}
        self.client("athena").create_work_group(**settings)
        return {"Ref": p["Name"]}

    def make_athena_namedquery(self, p):
        return {"Ref": self.client("athena").create_named_query(**p)["NamedQueryId"]}

    def make_quicksight_datasource(self, p):
        return {"Ref": p["DataSourceId"], "Arn": self.client("quicksight").create_data_source(**p)["Arn"]}

    def make_quicksight_dataset(self, p):
        return {"Ref": p["DataSetId"], "Arn": self.client("quicksight").create_data_set(**p)["Arn"]}

    def make_quicksight_dashboard(self, p):
        return {"Ref": p["DashboardId"], "Arn": self.client("quicksight").create_dashboard(**p)["Arn"]}

    def make_endpoints(self, p):
        """Custom::Endpoints: what its function answers, by running it."""
        answers = []
        response = types.ModuleType("cfnresponse")
        response.SUCCESS, response.FAILED = "SUCCESS", "FAILED"
        response.send = lambda event, context, status, data, physical, reason=None: answers.append((status, data, reason))
        function = next(made for made in self.made.values() if made.get("Arn") == p["ServiceToken"])
        code = run_inline(function["Code"], self.client, cfnresponse=response)
        code["handler"]({"RequestType": "Create"}, None)
        (status, data, reason), = answers
        assert status == "SUCCESS", reason
        return {"Ref": "endpoints", **data}


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    parameters = dict(word.split("=", 1) for word in sys.argv[2:])
    try:
        made = Stack(sys.argv[1], **parameters)
    except ClientError as error:
        sys.exit(f"moto refuses it: {error}")
    print(json.dumps(made.describe() | {"skipped": made.skipped}, indent=2))


if __name__ == "__main__":
    main()

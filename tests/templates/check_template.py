#!/usr/bin/env python3
"""Holds template.yaml against cfn-lint, the SAM translator and the promises that the code relies on.

Offline, and installs nothing: it wants what requirements.txt beside it names.
Exit code 0: all holds; 1: findings, one a line; 2: could not run.

    python tests/templates/check_template.py [template.yaml]
"""

import copy
import os
import sys
import tomllib
from pathlib import Path

try:
    import cfnlint.api
    from cfnlint.config import ManualArgs
    from cfnlint.decode.cfn_yaml import loads
    from samtranslator.public.exceptions import InvalidDocumentException
    from samtranslator.translator.transform import transform
except ImportError as error:
    print(f"{error}: run `pip install -r tests/templates/requirements.txt` first", file=sys.stderr)
    sys.exit(2)

ROOT = Path(__file__).resolve().parents[2]
REGION = "eu-west-1"
# The translator asks boto3 for a region, and nothing else.
os.environ["AWS_DEFAULT_REGION"] = REGION

# Where SAM would ask IAM for the managed policies it attaches by itself.
MANAGED_POLICIES = {
    name: f"arn:aws:iam::aws:policy/service-role/{name}"
    for name in ("AWSLambdaBasicExecutionRole", "AWSLambdaVPCAccessExecutionRole", "AWSLambdaMSKExecutionRole")
}


class OfflinePolicies:
    """Stands where SAM expects its loader of managed policies, which would call AWS."""

    def load(self):
        return MANAGED_POLICIES


def plain(node):
    """A template as plain dicts and lists: cfn-lint's nodes carry source marks that SAM does not want."""
    if isinstance(node, dict):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    return str(node) if isinstance(node, str) else node


def lint(text):
    """cfn-lint's findings, warnings included."""
    config = ManualArgs(regions=[REGION])
    return [str(finding) for finding in cfnlint.api.lint(text, config=config)]


def translate(template):
    """What SAM makes of the template, or its complaints: (resources, findings)."""
    template = copy.deepcopy(template)
    for function in of_type(template["Resources"], "AWS::Serverless::Function").values():
        # What `sam package` puts there once the code is built and uploaded.
        function["Properties"]["CodeUri"] = "s3://bucket/key"
    try:
        parameters = {name: spec.get("Default", "") for name, spec in template["Parameters"].items()}
        translated = transform(template, parameters, OfflinePolicies())
    except InvalidDocumentException as error:
        return {}, [f"SAM: {cause.message}" for cause in error.causes]
    return translated["Resources"], []


def of_type(resources, kind):
    return {name: resource for name, resource in resources.items() if resource["Type"] == kind}


def check_functions(template):
    """Each package of functions/ is deployed, by its own name, and nothing else is."""
    binaries = {}
    for name, function in of_type(template["Resources"], "AWS::Serverless::Function").items():
        metadata = function.get("Metadata", {})
        if metadata.get("BuildMethod") != "rust-cargolambda":
            yield f"{name}: BuildMethod is not rust-cargolambda"
        binary = metadata.get("BuildProperties", {}).get("Binary")
        binaries[binary] = name
        code = function["Properties"]["CodeUri"]
        if code != f"functions/{binary}":
            yield f"{name}: CodeUri {code} is not functions/{binary}"
    packages = {
        tomllib.loads(manifest.read_text())["package"]["name"] for manifest in (ROOT / "functions").glob("*/Cargo.toml")
    }
    for package in sorted(packages - binaries.keys()):
        yield f"functions/{package} is missing from the template"
    for binary in sorted(binaries.keys() - packages):
        yield f"{binaries[binary]}: functions/{binary} does not exist"


def check_schedule(resources):
    """One rule, each minute, with the input that makes the relay tick every five seconds."""
    rules = of_type(resources, "AWS::Events::Rule")
    found = [
        (rule["Properties"].get("ScheduleExpression"), target.get("Input"))
        for rule in rules.values()
        for target in rule["Properties"]["Targets"]
    ]
    if found != [("rate(1 minute)", '{"every_s": 5, "for_s": 60}')]:
        yield f"schedules are {found}: expected one of rate(1 minute) with every_s 5 and for_s 60"


def check_mappings(resources):
    """Each Kafka source: partial responses, finite retries, a dead-letter topic, provisioned mode, from the beginning."""
    mappings = of_type(resources, "AWS::Lambda::EventSourceMapping")
    topics = sorted(topic for mapping in mappings.values() for topic in mapping["Properties"]["Topics"])
    sources = ["inventory.events", "inventory_analytics", "order.events", "order_items_analytics", "orders_analytics"]
    expected = sorted(sources + [f"{topic}.retry" for topic in sources])
    if topics != expected:
        yield f"topics are {topics}: expected {expected}"
    readers = {mapping["Properties"]["Topics"][0]: mapping["Properties"]["FunctionName"] for mapping in mappings.values()}
    for topic in topics:
        # What was rejected goes back to whoever rejected it.
        if topic.endswith(".retry") and readers[topic] != readers.get(topic.removesuffix(".retry")):
            yield f"{topic} is not read by the function that reads {topic.removesuffix('.retry')}"
    for name, mapping in mappings.items():
        properties = mapping["Properties"]
        (topic,) = properties["Topics"]
        expected = {
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "StartingPosition": "TRIM_HORIZON",
            "BisectBatchOnFunctionError": True,
            "DestinationConfig": {"OnFailure": {"Destination": f"kafka://{topic.removesuffix('.retry')}.dlq"}},
        }
        for key, value in expected.items():
            if properties.get(key) != value:
                yield f"{name}: {key} is {properties.get(key)!r}, expected {value!r}"
        # Infinite retries (-1, the default) with a destination are silently cut to 10 by AWS.
        if not 1000 <= properties.get("MaximumRetryAttempts", -1) <= 10000:
            yield f"{name}: MaximumRetryAttempts must be finite and outlast an outage (1000 to 10000)"
        if not 0 < properties.get("MaximumRecordAgeInSeconds", -1) <= 604800:
            yield f"{name}: MaximumRecordAgeInSeconds must be finite (at most 604800)"
        if "ProvisionedPollerConfig" not in properties:
            yield f"{name}: ProvisionedPollerConfig is missing, which retries and partial responses need"
        group = properties.get("SelfManagedKafkaEventSourceConfig", {}).get("ConsumerGroupId", "")
        if not group.endswith(f"-{topic}"):
            yield f"{name}: ConsumerGroupId {group!r} does not end in the topic's name"


def check_relay(resources):
    """Few relays at a time, and always room for a nudge beside two minutes' schedules that overlap."""
    reserved = {
        name: function["Properties"]["ReservedConcurrentExecutions"]
        for name, function in of_type(resources, "AWS::Lambda::Function").items()
        if "ReservedConcurrentExecutions" in function["Properties"]
    }
    if reserved != {"OutboxRelay": 3}:
        yield f"ReservedConcurrentExecutions are {reserved}: expected 3 for OutboxRelay alone"


def check_nudge(resources):
    """Who nudges the relay knows its address and may invoke it, and nothing else."""
    functions = of_type(resources, "AWS::Lambda::Function")
    nudging = {
        name: function["Properties"]["Environment"]["Variables"]["OUTFLOW_NUDGE_URL"]
        for name, function in functions.items()
        if "OUTFLOW_NUDGE_URL" in function["Properties"]["Environment"]["Variables"]
    }
    if list(nudging) != ["CreateOrder"]:
        yield f"functions with OUTFLOW_NUDGE_URL are {list(nudging)}: expected CreateOrder"
    for name, url in nudging.items():
        text = url["Fn::Sub"] if isinstance(url, dict) else url
        if not text.startswith("https://lambda.") or not text.endswith("/functions/${OutboxRelay}/invocations"):
            yield f"{name}: OUTFLOW_NUDGE_URL {text} is not the relay's Invoke API"
    may = {
        name.removesuffix("Role")
        for name, role in of_type(resources, "AWS::IAM::Role").items()
        for policy in role["Properties"].get("Policies", [])
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Action"] == "lambda:InvokeFunction"
        and statement["Resource"] == {"Fn::GetAtt": ["OutboxRelay", "Arn"]}
    }
    if may != set(nudging):
        yield f"functions that may invoke the relay are {sorted(may)}: expected {sorted(nudging)}"


def check_secrets(resources):
    """No password stands in the template: only references that CloudFormation resolves."""
    for name, function in of_type(resources, "AWS::Lambda::Function").items():
        for key, value in function["Properties"]["Environment"]["Variables"].items():
            if ("PASSWORD" in key or "DATABASE_URL" in key) and "{{resolve:secretsmanager:" not in str(value):
                yield f"{name}: {key} must come from Secrets Manager"


def check_policies(resources):
    """No statement allows every action or every resource."""
    for name, role in of_type(resources, "AWS::IAM::Role").items():
        for policy in role["Properties"].get("Policies", []):
            for statement in policy["PolicyDocument"]["Statement"]:
                for key in ("Action", "Resource"):
                    values = statement[key] if isinstance(statement[key], list) else [statement[key]]
                    if any(value == "*" or str(value).endswith(":*") for value in values):
                        yield f"{name}: {key} {values} is wider than it needs to be"


def main():
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "template.yaml"
    text = path.read_text()
    findings = lint(text)
    template = plain(loads(text))
    findings += check_functions(template)
    resources, complaints = translate(template)
    findings += complaints
    for check in (check_schedule, check_mappings, check_relay, check_nudge, check_secrets, check_policies):
        findings += check(resources)
    for finding in findings:
        print(finding)
    print(f"{path.name}: {len(resources)} resources, {len(findings)} findings", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

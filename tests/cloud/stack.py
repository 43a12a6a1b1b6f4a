"""config/aws/stack.yaml: what is in it, and the parts of it that are made from other files.

    stack.py --write    puts columns, views and queries into the template
    stack.py --check    fails when --write would change it
    stack.py --views    the columns of the views, as JSON
    stack.py --columns  those of the table, with their types

A view and a saved query must stand in the template word for word; they are kept as files of their own, which the tests
run. The columns follow from COLUMNS here, which are those of README, "The published line".
"""

import json
import re
import sys
import textwrap
from pathlib import Path

import yaml

AWS = Path(__file__).resolve().parents[2] / "config" / "aws"
STACK = AWS / "stack.yaml"

# Glue's types, in the order of the published line.
COLUMNS = {
    "id": "string",
    "type": "string",
    "gateway": "string",
    "site": "string",
    "device": "string",
    "source": "string",
    "time": "string",
    "time_quality": "string",
    "boot": "string",
    "uptime_ms": "bigint",
    "uncertainty_s": "double",
    "device_time": "string",
    "bpm": "int",
    "rr_ms": "array<double>",
    "contact": "boolean",
    "energy_kj": "int",
    "battery_percent": "int",
    "rssi_dbm": "int",
    "reason": "string",
    "gap_ms": "bigint",
    "generation": "bigint",
    "count": "bigint",
    "window_s": "int",
    "n": "bigint",
    "bpm_n": "bigint",
    "bpm_min": "int",
    "bpm_mean": "double",
    "bpm_max": "int",
    "rr_n": "bigint",
    "first_seq": "bigint",
    "last_seq": "bigint",
    "cause": "string",
    "devices": "map<string,bigint>",
}

# Of each view: its resource, and its columns with Glue's types.
VIEWS = {
    "readings": (
        "ReadingsView",
        "Every reading of the last 35 days of delivery once, at its true time.",
        {
            "id": "string",
            "gateway": "string",
            "site": "string",
            "device": "string",
            "source": "string",
            "time": "timestamp",
            "time_quality": "string",
            "uncertainty_s": "double",
            "bpm": "int",
            "rr_ms": "array<double>",
            "contact": "boolean",
            "energy_kj": "int",
            "battery_percent": "int",
            "rssi_dbm": "int",
            "reason": "string",
            "gap_ms": "bigint",
        },
    ),
    "heartrate_iot_data": (
        "HeartrateView",
        "Readings that may enter an average, in the form of the original pipeline.",
        {"heartrate": "int", "userid": "string", "ratetype": "string", "datetime": "timestamp"},
    ),
}

# What Trino calls Glue's types.
TRINO = {
    "string": "varchar",
    "int": "integer",
    "bigint": "bigint",
    "double": "double",
    "boolean": "boolean",
    "timestamp": "timestamp(3)",
    "array<double>": "array(double)",
    "map<string,bigint>": "map(varchar,bigint)",
}


def sql(path):
    """(comment, statement) of a file: the comment lines at its head, and what follows."""
    lines = path.read_text().splitlines()
    head = 0
    while lines[head].startswith("--"):
        head += 1
    comment = "\n".join(line.removeprefix("--").strip() for line in lines[:head])
    return comment, "\n".join(lines[head:]).strip() + "\n"


def queries():
    return sorted((AWS / "queries").glob("*.sql"))


def columns_block(columns):
    # Many on a line: CloudFormation counts every byte.
    cells = [f"{{Name: {name}, Type: '{kind}'}}" for name, kind in columns.items()]
    return textwrap.wrap(f"Columns: [{', '.join(cells)}]", 110, subsequent_indent="  ", break_on_hyphens=False)


def views_block():
    lines = []
    for name, (resource, description, columns) in VIEWS.items():
        statement = sql(AWS / "views" / f"{name}.sql")[1]
        assert '"' not in statement and "--" not in statement and "\\" not in statement and "${" not in statement, name
        described = json.dumps([{"name": c, "type": TRINO[t]} for c, t in columns.items()])
        lines += [
            f"{resource}:",
            "  Type: AWS::Glue::Table",
            "  Properties:",
            "    CatalogId: !Ref AWS::AccountId",
            "    DatabaseName: !Ref Database",
            "    TableInput:",
            f"      Name: {name}",
            f"      Description: {description}",
            "      TableType: VIRTUAL_VIEW",
            "      Parameters: {presto_view: 'true', comment: Presto View}",
            "      StorageDescriptor:",
            "        SerdeInfo: {}",
            *("        " + line for line in columns_block(columns)),
            "      ViewExpandedText: /* Presto View */",
            "      ViewOriginalText: !Sub",
            "        - '/* Presto View: ${View} */'",
            "        - View:",
            "            Fn::Base64: !Sub >-",
            '             {"originalSql": "',
            *("             " + line.strip() for line in statement.splitlines()),
            f'             ", "catalog": "awsdatacatalog", "schema": "${{Database}}", "columns": {described}}}',
            "",
        ]
    return lines[:-1]


def description(comment):
    """The comment's first paragraph."""
    text = " ".join(comment.split("\n\n")[0].split())
    assert len(text) <= 1024, "Athena takes no more"
    return ["Description: >-", *textwrap.wrap(text, 110, initial_indent=" ", subsequent_indent=" ")]


def queries_block():
    lines = []
    for path in queries():
        name = path.stem
        resource = "Query" + "".join(word.title() for word in name.split("_"))
        comment, statement = sql(path)
        assert "${" not in statement, name
        lines += [
            f"{resource}:",
            "  Type: AWS::Athena::NamedQuery",
            "  Properties:",
            f"    Name: {name}",
            *("    " + line for line in description(comment)),
            "    Database: !Ref Database",
            "    WorkGroup: !Ref Workgroup",
            "    QueryString: !Sub |" if "BUCKET" in statement else "    QueryString: |",
            *(("     " + line).rstrip() for line in statement.replace("BUCKET", "${Lake}").splitlines()),
            "",
        ]
    return lines[:-1]


BLOCKS = {
    "columns": lambda: columns_block(COLUMNS),
    "views": views_block,
    "queries": queries_block,
}


def made(text):
    """The template with its made parts as they should be."""
    for name, block in BLOCKS.items():
        pattern = re.compile(rf"^( *)# >>> {name}\n.*?^ *# <<< {name}\n", re.M | re.S)
        assert len(pattern.findall(text)) == 1, f"no place for {name}"

        def put(match, name=name, block=block):
            indent = match.group(1)
            lines = [f"# >>> {name}", *block(), f"# <<< {name}"]
            return "".join((indent + line).rstrip() + "\n" for line in lines)

        text = pattern.sub(put, text)
    return text


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms, told as the long ones."""


def short_form(loader, suffix, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


Loader.add_multi_constructor("!", short_form)


def load(text=None):
    return yaml.load(text if text is not None else STACK.read_text(), Loader)


def main():
    text = STACK.read_text()
    if sys.argv[1:] == ["--write"]:
        STACK.write_text(made(text))
    elif sys.argv[1:] == ["--check"]:
        if made(text) != text:
            sys.exit("config/aws/stack.yaml is not what its parts say: python3 tests/cloud/stack.py --write")
        size = len(text.encode())
        # CloudFormation takes a larger one only by way of a bucket.
        if size > 51_200:
            sys.exit(f"config/aws/stack.yaml has {size} bytes, 51,200 are the most")
        print(f"{size} bytes, {len(load(text)['Resources'])} resources")
    elif sys.argv[1:] == ["--views"]:
        print(json.dumps({name: list(columns) for name, (_, _, columns) in VIEWS.items()}))
    elif sys.argv[1:] == ["--columns"]:
        print(json.dumps(list(COLUMNS.items())))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()

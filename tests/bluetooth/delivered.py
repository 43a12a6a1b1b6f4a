"""Reads what the `directory` uplink delivered. Nothing of fogbeat's is used: gzip and JSON as anybody has them."""
import collections
import datetime
import gzip
import json


def lines(lake):
    """Every line of every file, oldest file name first."""
    for path in sorted(lake.rglob("*.json*")):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def faults_of_ids(all_lines):
    """An id never has two contents, and nothing is in the files twice. Lines of the account have ids as well."""
    contents = collections.defaultdict(list)
    for line in all_lines:
        contents[line.get("id")].append(line)
    for name, found in contents.items():
        if name is None:
            yield f"{len(found)} lines have no id"
        elif any(line != found[0] for line in found):
            yield f"id {name} has two contents"
        elif len(found) > 1:
            yield f"id {name} is there {len(found)} times"


def seconds(line):
    """`time` as seconds since 1970."""
    return datetime.datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp()


def ticks(line):
    """RR intervals in 1/1024 s; None where one is not a whole number of these, to the three decimals that are told."""
    found = []
    for milliseconds in line.get("rr_ms", []):
        whole = round(milliseconds * 1.024)
        if abs(milliseconds - whole / 1.024) > 0.000501:
            return None
        found.append(whole)
    return found

"""Runs the views and queries of config/aws in DuckDB over delivered files.

    ask.py [--today DAY] [--zone ZONE] GLOB [QUESTION ...]      the answers as JSON, {question: [{column: value}]}

GLOB names gzip files of lines below .../dt=YYYY-MM-DD/hour=HH/. The table's columns are those of the stack's Glue table.
A question is the name of a query or of a table or view, with @DAY one that is asked on that day. Without any: all
queries. ZONE takes the place of 'UTC' where a query has settings.
"""

import argparse
import datetime
import decimal
import json
import re
from pathlib import Path

import duckdb

import stack

DUCKDB = {"string": "VARCHAR", "int": "INTEGER", "array<double>": "DOUBLE[]", "map<string,bigint>": "MAP(VARCHAR, BIGINT)"}


def glue_columns(name):
    """The columns of a table or view, as the template has them."""
    for resource in stack.load()["Resources"].values():
        if resource["Type"] == "AWS::Glue::Table" and resource["Properties"]["TableInput"]["Name"] == name:
            columns = resource["Properties"]["TableInput"]["StorageDescriptor"]["Columns"]
            return {column["Name"]: column["Type"] for column in columns}
    raise LookupError(name)


def open_lake(glob, today):
    db = duckdb.connect()
    db.execute((Path(__file__).parent / "athena_in_duckdb.sql").read_text())
    columns = {name: DUCKDB.get(kind, kind.upper()) for name, kind in glue_columns("lines").items()}
    typed = ", ".join(f"\"{name}\": '{kind}'" for name, kind in columns.items())
    db.execute(
        f"CREATE VIEW lines AS SELECT * REPLACE (CAST(dt AS VARCHAR) AS dt, lpad(CAST(hour AS VARCHAR), 2, '0') AS hour) "
        f"FROM read_json('{glob}', format = 'newline_delimited', compression = 'gzip', hive_partitioning = true, "
        f"columns = {{{typed}}})"
    )
    for name in stack.VIEWS:
        db.execute(f"CREATE VIEW {name} AS {on(stack.sql(stack.AWS / 'views' / f'{name}.sql')[1], today)}")
    return db


def statement(name, today, zone):
    if name in stack.VIEWS or name in ("lines", "lines_parquet"):
        return f"SELECT * FROM {name}"
    text = stack.sql(stack.AWS / "queries" / f"{name}.sql")[1]
    text = text.replace("VALUES ('UTC')", f"VALUES ('{zone}')")
    # Where and how a table lies in S3.
    text = re.sub(r"(CREATE TABLE \w+)\nWITH \(.*?\n\) AS", r"\1 AS", text, flags=re.S)
    return on(text, today)


def on(text, today):
    """A statement as it is on a day."""
    return text.replace("current_date", f"DATE '{today}'") if today else text


def plain(value):
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    return value


def ask(db, text):
    answer = db.execute(text)
    names = [column[0] for column in answer.description]
    return [dict(zip(names, map(plain, row))) for row in answer.fetchall()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--today")
    parser.add_argument("--zone", default="UTC")
    parser.add_argument("glob")
    parser.add_argument("questions", nargs="*")
    options = parser.parse_intermixed_args()
    db = open_lake(options.glob, options.today)
    # A table before what goes into it.
    everything = sorted((path.stem for path in stack.queries()), key=lambda name: (name == "parquet_daily", name))
    answers = {}
    for question in options.questions or everything:
        name, _, day = question.partition("@")
        answers[question] = ask(db, statement(name, day or options.today, options.zone))
    print(json.dumps(answers))


if __name__ == "__main__":
    main()

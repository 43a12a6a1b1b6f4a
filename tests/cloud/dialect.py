"""Whether Athena would take the views and queries: parsed as Trino's SQL, every column found where it is asked for, no
function that Trino does not have, and none of the forms that only DuckDB knows.

    dialect.py [FILE ...]       without files: all views and queries; complaints on standard output
"""

import re
import sys
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.qualify import qualify

import stack

# Of Trino's functions those that are used here, as its documentation spells them.
FUNCTIONS = set(
    """abs arbitrary array_agg array_sort at_timezone avg cardinality cast coalesce count count_if date_add date_diff
    date_format date_trunc dense_rank floor from_iso8601_timestamp greatest hour lag lead least map_keys max max_by min
    min_by minute nullif regr_slope round row_number sqrt stddev_samp sum to_unixtime with_timezone""".split()
)
# Words that may stand before a parenthesis and are no functions.
WORDS = set(
    """array as and beat by exists filter from in names not or over partition people settings then unnest values w when
    where with""".split()
)
ONLY_DUCKDB = {
    r"::": "a cast by ::",
    r"\bDISTINCT ON\b": "DISTINCT ON",
    r"\bQUALIFY\b": "QUALIFY",
    r"\bEXCLUDE\b|\bSELECT \* REPLACE\b": "a star with EXCLUDE or REPLACE",
    r"\bILIKE\b": "ILIKE",
    r"\bGROUP BY ALL\b|\bORDER BY ALL\b": "BY ALL",
    r"\bFROM read_\w+": "a file as a table",
    r"\bUNION BY NAME\b": "UNION BY NAME",
    r"//": "an integer division by //",
    r"\bto_(milli)?seconds\b|\bepoch(_ms)?\b|\bstrftime\b|\bstrptime\b": "a function of DuckDB's",
}


def complaints(path, schema):
    text = stack.sql(path)[1]
    bare = re.sub(r"--.*", "", re.sub(r"'[^']*'", "''", text))
    found = [f"{what}" for pattern, what in ONLY_DUCKDB.items() if re.search(pattern, bare, re.I)]
    called = {name.lower() for name in re.findall(r"\b([A-Za-z_]\w*)\s*\(", bare)}
    tables = {name.lower() for name in re.findall(r"(\w+)(?: \([\w, ]+\))? AS \(", bare)}
    for name in sorted(called - FUNCTIONS - WORDS - tables):
        found.append(f"{name}() is in no list of Trino's functions here")
    for dialect in ("trino", "athena"):
        try:
            tree = sqlglot.parse_one(text, read=dialect)
        except sqlglot.errors.ParseError as error:
            return found + [f"{dialect}: {error}"]
    query = tree.find(exp.Query) if isinstance(tree, (exp.Create, exp.Insert)) else tree
    try:
        qualify(query.copy(), schema=schema, dialect="trino", validate_qualify_columns=True)
    except sqlglot.errors.OptimizeError as error:
        found.append(str(error))
    return found


def main():
    lines = stack.COLUMNS | {"dt": "string", "hour": "string"}
    schema = {
        "lines": {name: stack.TRINO[kind] for name, kind in lines.items()},
        "lines_parquet": {name: stack.TRINO[kind] for name, kind in lines.items() if name != "hour"},
    }
    for view, (_, _, columns) in stack.VIEWS.items():
        schema[view] = {name: stack.TRINO[kind] for name, kind in columns.items()}
    paths = [Path(name) for name in sys.argv[1:]] or [*sorted((stack.AWS / "views").glob("*.sql")), *stack.queries()]
    for path in paths:
        for complaint in complaints(path, schema):
            print(f"{path.name}: {complaint}")


if __name__ == "__main__":
    main()

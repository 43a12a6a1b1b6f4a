-- What Athena's SQL (Trino) calls by another name than DuckDB. With these the files in config/aws run in DuckDB as they
-- are; two more differences are in ask.py: the storage options of a CREATE TABLE, and where a view comes from.
SET TimeZone = 'UTC';
CREATE MACRO from_iso8601_timestamp(t) AS CAST(t AS TIMESTAMP);
CREATE MACRO date_format(t, form) AS strftime(t, form);
CREATE MACRO to_unixtime(t) AS epoch(t);
CREATE MACRO with_timezone(t, zone) AS timezone(zone, t);
CREATE MACRO at_timezone(t, zone) AS timezone(zone, t);
CREATE MACRO cardinality(list) AS len(list);
CREATE MACRO date_add(unit, n, t) AS
  t + CASE unit WHEN 'millisecond' THEN to_milliseconds(n) WHEN 'minute' THEN to_minutes(n) END;

-- Once: table lines_parquet with every line delivered in the last 90 days, today left out, each once. Queries over it
-- read only the columns they name. Price: what the 90 days have in S3 is read once (fogbeat cloud cost prints it).
CREATE TABLE lines_parquet
WITH (
  format = 'PARQUET',
  write_compression = 'ZSTD',
  external_location = 's3://BUCKET/parquet/',
  partitioned_by = ARRAY['dt']
) AS
SELECT id, type, gateway, site, device, source, time, time_quality, boot, uptime_ms, uncertainty_s, device_time, bpm,
  rr_ms, contact, energy_kj, battery_percent, rssi_dbm, reason, gap_ms, generation, count, window_s, n, bpm_n, bpm_min, bpm_mean,
  bpm_max, rr_n, first_seq, last_seq, cause, devices, dt
FROM (
  SELECT *, row_number() OVER (PARTITION BY id ORDER BY dt, hour) AS copy
  FROM lines
  WHERE dt >= date_format(current_date - INTERVAL '90' DAY, '%Y-%m-%d')
    AND dt < date_format(current_date, '%Y-%m-%d')
) AS delivered
WHERE copy = 1

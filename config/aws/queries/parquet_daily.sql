-- Every day, an hour after midnight UTC or later: yesterday's lines into lines_parquet, each once. Run twice, it adds
-- nothing. Price: one day of delivery is read, 10 MB at least (fogbeat cloud cost prints it).
INSERT INTO lines_parquet
SELECT id, type, gateway, site, device, source, time, time_quality, boot, uptime_ms, uncertainty_s, device_time, bpm,
  rr_ms, contact, energy_kj, battery_percent, rssi_dbm, reason, gap_ms, generation, count, window_s, n, bpm_n, bpm_min, bpm_mean,
  bpm_max, rr_n, first_seq, last_seq, cause, devices, dt
FROM (
  SELECT *, row_number() OVER (PARTITION BY id ORDER BY hour) AS copy
  FROM lines
  WHERE dt = date_format(current_date - INTERVAL '1' DAY, '%Y-%m-%d')
) AS delivered
WHERE copy = 1
  AND NOT EXISTS (
    SELECT 1 FROM lines_parquet WHERE dt = date_format(current_date - INTERVAL '1' DAY, '%Y-%m-%d')
  )

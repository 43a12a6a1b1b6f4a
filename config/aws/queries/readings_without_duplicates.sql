-- Readings of the last 7 days, each once, at its true time.
SELECT time, site, device, bpm, rr_ms, contact, battery_percent, rssi_dbm, reason, gap_ms, source, gateway, time_quality,
  uncertainty_s, id
FROM readings
WHERE time >= current_date - INTERVAL '7' DAY
ORDER BY time, site, device, id

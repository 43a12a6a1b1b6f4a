-- readings: every reading of the last 35 days of delivery once, at its true time.
--
-- A batch that was sent again has the same lines: one of each id counts. Lines with time_quality 'unsynced' get their
-- true time from the clock line of their boot. A strap that is heard in several ways in the same second counts in one
-- of them: GATT before MQTT before broadcast before a replay, then the better signal, then the gateway's name.
-- The 35 days are what a query reads at most (and is paid for); older readings: table lines.
WITH delivered AS (
  SELECT id, type, gateway, site, device, source, time_quality, boot, uptime_ms, uncertainty_s, bpm, rr_ms, contact,
    energy_kj, battery_percent, rssi_dbm, reason, gap_ms,
    CAST(from_iso8601_timestamp(time) AS timestamp) AS told,
    row_number() OVER (PARTITION BY id ORDER BY dt, hour) AS copy
  FROM lines
  WHERE (type IS NULL OR type = 'clock')
    AND dt >= date_format(current_date - INTERVAL '35' DAY, '%Y-%m-%d')
), clocks AS (
  SELECT boot, max(uptime_ms) AS uptime_ms, max_by(told, uptime_ms) AS told,
    max_by(uncertainty_s, uptime_ms) AS uncertainty_s
  FROM delivered
  WHERE type = 'clock'
  GROUP BY boot
), timed AS (
  SELECT r.id, r.gateway, r.site, r.device, r.source,
    coalesce(date_add('millisecond', r.uptime_ms - c.uptime_ms, c.told), r.told) AS time,
    CASE WHEN c.boot IS NULL THEN r.time_quality ELSE 'repaired' END AS time_quality,
    coalesce(c.uncertainty_s + abs(r.uptime_ms - c.uptime_ms) / 1e7, r.uncertainty_s) AS uncertainty_s,
    r.bpm, r.rr_ms, r.contact, r.energy_kj, r.battery_percent, r.rssi_dbm, r.reason, r.gap_ms,
    CASE r.source WHEN 'gatt' THEN 1 WHEN 'mqtt' THEN 2 WHEN 'advert' THEN 3 ELSE 4 END AS way
  FROM delivered r
  LEFT JOIN clocks c ON r.time_quality = 'unsynced' AND c.boot = r.boot
  WHERE r.type IS NULL AND r.copy = 1
), heard AS (
  SELECT timed.*,
    max(rssi_dbm) OVER (PARTITION BY site, device, date_trunc('second', time), gateway, way) AS signal
  FROM timed
), ranked AS (
  SELECT heard.*,
    dense_rank() OVER (PARTITION BY site, device, date_trunc('second', time)
                       ORDER BY way, signal DESC NULLS LAST, gateway) AS place
  FROM heard
)
SELECT id, gateway, site, device, source, time, time_quality, uncertainty_s, bpm, rr_ms, contact, energy_kj,
  battery_percent, rssi_dbm, reason, gap_ms
FROM ranked
WHERE place = 1

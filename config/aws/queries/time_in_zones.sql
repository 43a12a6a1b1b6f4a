-- Seconds in each heart rate zone, per session of the last 7 days (sessions as in sessions.sql). Zones begin at 50, 60,
-- 70, 80 and 90 % of the wearer's maximum. A reading stands for the time until the next one, 10 seconds at most.
WITH people (device, max_bpm) AS (
  VALUES ('strap-17', 184) -- one line each: the device and its wearer's maximum (measured, or 208 - 0.7 x age)
), settings (default_max_bpm) AS (
  VALUES (190) -- for devices that are not listed
), worn AS (
  SELECT site, device, time, bpm, id,
    CASE WHEN date_diff('millisecond', lag(time) OVER (PARTITION BY site, device ORDER BY time, id), time) <= 300000
      THEN 0 ELSE 1 END AS starts
  FROM readings
  WHERE bpm IS NOT NULL AND reason IS NULL AND time >= current_date - INTERVAL '7' DAY
), numbered AS (
  SELECT site, device, time, bpm, id,
    sum(starts) OVER (PARTITION BY site, device ORDER BY time, id
                      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS session
  FROM worn
), held AS (
  SELECT n.site, n.device, n.session, n.time, coalesce(p.max_bpm, s.default_max_bpm) AS max_bpm,
    least(greatest(floor(1e1 * n.bpm / coalesce(p.max_bpm, s.default_max_bpm)) - 4, 0), 5) AS zone,
    least(date_diff('millisecond', n.time, coalesce(
      lead(n.time) OVER (PARTITION BY n.site, n.device, n.session ORDER BY n.time, n.id), n.time)), 10000) / 1e3 AS seconds
  FROM numbered n
  CROSS JOIN settings s
  LEFT JOIN people p ON p.device = n.device
)
SELECT site, device, session, min(time) AS started, max_bpm,
  round(sum(CASE WHEN zone = 0 THEN seconds ELSE 0 END), 1) AS below_s,
  round(sum(CASE WHEN zone = 1 THEN seconds ELSE 0 END), 1) AS zone_1_s,
  round(sum(CASE WHEN zone = 2 THEN seconds ELSE 0 END), 1) AS zone_2_s,
  round(sum(CASE WHEN zone = 3 THEN seconds ELSE 0 END), 1) AS zone_3_s,
  round(sum(CASE WHEN zone = 4 THEN seconds ELSE 0 END), 1) AS zone_4_s,
  round(sum(CASE WHEN zone = 5 THEN seconds ELSE 0 END), 1) AS zone_5_s
FROM held
GROUP BY site, device, session, max_bpm
HAVING date_diff('millisecond', min(time), max(time)) >= 60000
ORDER BY started, site, device

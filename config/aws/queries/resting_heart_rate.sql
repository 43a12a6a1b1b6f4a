-- Resting heart rate per device and local day: the lowest mean of any five minutes (on the clock) that have readings in
-- each of their minutes. A day on which nobody rested shows the calmest five minutes, not a resting heart rate.
WITH settings (zone) AS (
  VALUES ('UTC') -- the site's time zone, such as 'Europe/Berlin'
), worn AS (
  SELECT site, device, bpm, CAST(at_timezone(with_timezone(time, 'UTC'), zone) AS timestamp) AS local_time
  FROM readings
  CROSS JOIN settings
  WHERE bpm IS NOT NULL AND reason IS NULL AND time >= current_date - INTERVAL '8' DAY
), fives AS (
  SELECT site, device, date_add('minute', -(minute(local_time) % 5), date_trunc('minute', local_time)) AS five,
    avg(bpm) AS bpm, count(DISTINCT minute(local_time)) AS minutes
  FROM worn
  GROUP BY 1, 2, 3
)
SELECT site, device, date_trunc('day', five) AS day, round(min(bpm), 1) AS resting_bpm, min_by(five, bpm) AS measured_at,
  count(*) AS five_minutes
FROM fives
WHERE minutes = 5
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3

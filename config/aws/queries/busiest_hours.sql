-- Busiest hours of a site, over the last 28 days: for each hour of the local day, how many devices were worn in it (mean
-- over the days on which anybody was there in that hour, and most), and for how long together.
WITH settings (zone) AS (
  VALUES ('UTC') -- the site's time zone, such as 'Europe/Berlin'
), worn AS (
  SELECT DISTINCT site, device,
    date_trunc('minute', CAST(at_timezone(with_timezone(time, 'UTC'), zone) AS timestamp)) AS minute_worn
  FROM readings
  CROSS JOIN settings
  WHERE bpm IS NOT NULL AND reason IS NULL AND time >= current_date - INTERVAL '28' DAY
), hours AS (
  SELECT site, date_trunc('hour', minute_worn) AS hour_worn, count(DISTINCT device) AS devices, count(*) AS minutes
  FROM worn
  GROUP BY 1, 2
)
SELECT site, hour(hour_worn) AS local_hour, count(*) AS days, round(avg(devices), 1) AS mean_devices,
  max(devices) AS most_devices, sum(minutes) AS device_minutes
FROM hours
GROUP BY site, hour(hour_worn)
ORDER BY site, device_minutes DESC, local_hour

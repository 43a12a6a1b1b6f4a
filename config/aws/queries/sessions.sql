-- Sessions of the last 7 days: a device was worn without a break of more than 5 minutes, for a minute at least.
WITH worn AS (
  SELECT site, device, time, bpm, id,
    CASE WHEN date_diff('millisecond', lag(time) OVER (PARTITION BY site, device ORDER BY time, id), time) <= 300000
      THEN 0 ELSE 1 END AS starts
  FROM readings
  WHERE bpm IS NOT NULL AND reason IS NULL AND time >= current_date - INTERVAL '7' DAY
), numbered AS (
  SELECT site, device, time, bpm,
    sum(starts) OVER (PARTITION BY site, device ORDER BY time, id
                      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS session
  FROM worn
)
SELECT site, device, session, min(time) AS started, max(time) AS ended,
  round(date_diff('millisecond', min(time), max(time)) / 6e4, 1) AS minutes,
  count(*) AS readings, min(bpm) AS min_bpm, round(avg(bpm), 1) AS mean_bpm, max(bpm) AS max_bpm
FROM numbered
GROUP BY site, device, session
HAVING date_diff('millisecond', min(time), max(time)) >= 60000
ORDER BY started, site, device

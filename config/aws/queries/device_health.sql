-- Battery and signal of each device, last 28 days: what it said last, how fast the battery falls and when it will be
-- empty at that rate, how well it was heard, and which share of its readings is of no use, and why.
WITH recent AS (
  SELECT site, device, time, to_unixtime(time) / 8.64e4 AS day, battery_percent, rssi_dbm, reason
  FROM readings
  WHERE time >= current_date - INTERVAL '28' DAY
), figures AS (
  SELECT site, device, count(*) AS readings, max(time) AS last_heard,
    max_by(battery_percent, time) FILTER (WHERE battery_percent IS NOT NULL) AS battery_percent,
    max(time) FILTER (WHERE battery_percent IS NOT NULL) AS battery_time,
    regr_slope(battery_percent, day) AS battery_percent_a_day,
    avg(rssi_dbm) AS mean_rssi_dbm, min(rssi_dbm) AS least_rssi_dbm,
    1e2 * count(CASE WHEN rssi_dbm < -90 THEN 1 END) / nullif(count(rssi_dbm), 0) AS weak_percent,
    1e2 * count(reason) / count(*) AS unusable_percent,
    count(CASE WHEN reason = 'no_contact' THEN 1 END) AS no_contact, count(CASE WHEN reason = 'zero' THEN 1 END) AS zero,
    count(CASE WHEN reason NOT IN ('no_contact', 'zero') THEN 1 END) AS other_reasons
  FROM recent
  GROUP BY site, device
)
SELECT site, device, readings, last_heard, battery_percent, battery_time,
  round(battery_percent_a_day, 2) AS battery_percent_a_day,
  CASE WHEN battery_percent_a_day < 0 THEN round(battery_percent / -battery_percent_a_day, 1) END AS days_to_empty,
  round(mean_rssi_dbm, 1) AS mean_rssi_dbm, least_rssi_dbm, round(weak_percent, 1) AS weak_percent,
  round(unusable_percent, 1) AS unusable_percent, no_contact, zero, other_reasons
FROM figures
ORDER BY battery_percent NULLS LAST, site, device

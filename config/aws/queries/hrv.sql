-- Heart rate variability per device and five minutes (on the clock) of the last 7 days: SDNN and RMSSD in ms, as the
-- Task Force of 1996 defines them, over normal intervals only. Where too little was heard, withheld says so instead.
--
-- Intervals of readings that carry a reason do not count. An interval is normal between 300 and 2000 ms and within 15 %
-- of the median of the eleven around it. A run breaks where readings were left out, where gap_ms says that something
-- was not heard, and where more time has passed since the reading before than its own intervals and one and a half of
-- them explain. RMSSD takes pairs of neighbours
-- in one run, both normal, both in the same five minutes. Without 80 % of the five minutes, or with more than 10 % of
-- intervals not normal, there is no figure, and withheld says why.
WITH told AS (
  SELECT site, device, id, time, rr_ms, reason, gap_ms,
    date_diff('millisecond', lag(time) OVER w, time) AS step_ms, lag(reason) OVER w AS reason_before
  FROM readings
  WHERE (cardinality(rr_ms) > 0 OR reason IS NOT NULL) AND time >= current_date - INTERVAL '7' DAY
  WINDOW w AS (PARTITION BY site, device ORDER BY time, id)
), beats AS (
  SELECT told.site, told.device, told.id, told.time, told.step_ms, told.reason_before, told.gap_ms, beat.rr, beat.n,
    date_add('minute', -(minute(told.time) % 5), date_trunc('minute', told.time)) AS five,
    sum(beat.rr) OVER (PARTITION BY told.id) AS sum_ms, avg(beat.rr) OVER (PARTITION BY told.id) AS mean_ms
  FROM told
  CROSS JOIN UNNEST(told.rr_ms) WITH ORDINALITY AS beat (rr, n)
  WHERE told.reason IS NULL
), runs AS (
  SELECT site, device, id, time, five, rr, n,
    sum(CASE WHEN n = 1 AND (step_ms IS NULL OR reason_before IS NOT NULL OR gap_ms IS NOT NULL
          OR step_ms > sum_ms + 1.5 * mean_ms) THEN 1 ELSE 0 END)
      OVER (PARTITION BY site, device ORDER BY time, id, n ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS run
  FROM beats
), around AS (
  SELECT site, device, id, time, five, rr, n, run,
    array_sort(array_agg(rr) OVER (PARTITION BY site, device, run ORDER BY time, id, n
                                   ROWS BETWEEN 5 PRECEDING AND 5 FOLLOWING)) AS near
  FROM runs
), judged AS (
  SELECT site, device, id, time, five, rr, n, run,
    rr BETWEEN 300 AND 2000 AND abs(rr / near[CAST(floor((cardinality(near) + 1) / 2e0) AS integer)] - 1) <= 0.15 AS normal
  FROM around
), pairs AS (
  SELECT site, device, five, rr, normal, CASE WHEN normal AND lag(normal) OVER w THEN rr - lag(rr) OVER w END AS change
  FROM judged
  WINDOW w AS (PARTITION BY site, device, run, five ORDER BY time, id, n)
), figures AS (
  SELECT site, device, five, count(*) AS beats, count_if(normal) AS normal_beats, count(change) AS pairs,
    sum(rr) / 3e3 AS coverage_percent, 6e4 / avg(CASE WHEN normal THEN rr END) AS mean_bpm,
    stddev_samp(CASE WHEN normal THEN rr END) AS sdnn_ms, sqrt(avg(change * change)) AS rmssd_ms,
    CASE WHEN sum(rr) < 240000 THEN 'too little heard'
      WHEN count_if(normal) < 0.9 * count(*) THEN 'too many artefacts' END AS withheld
  FROM pairs
  GROUP BY site, device, five
)
SELECT site, device, five AS five_minutes, beats, normal_beats, pairs, round(coverage_percent, 1) AS coverage_percent,
  round(mean_bpm, 1) AS mean_bpm, CASE WHEN withheld IS NULL THEN round(sdnn_ms, 2) END AS sdnn_ms,
  CASE WHEN withheld IS NULL THEN round(rmssd_ms, 2) END AS rmssd_ms, withheld
FROM figures
ORDER BY five, site, device

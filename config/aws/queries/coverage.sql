-- Coverage and gaps per device, last 7 days. Silence of more than 10 seconds is a gap, of more than 30 minutes: not
-- worn. Interruptions are those that the gateway noticed by itself, however short. The last five columns are readings that the gateway itself says will never come, and why; a strap out of reach
-- is in none of them.
WITH steps AS (
  SELECT site, device, time, gap_ms,
    date_diff('millisecond', lag(time) OVER (PARTITION BY site, device ORDER BY time, id), time) AS step_ms
  FROM readings
  WHERE time >= current_date - INTERVAL '7' DAY
), heard AS (
  SELECT site, device, count(*) AS readings, min(time) AS first_heard, max(time) AS last_heard,
    coalesce(sum(CASE WHEN step_ms <= 1800000 THEN step_ms END), 0) / 1e3 AS worn_s,
    coalesce(sum(CASE WHEN step_ms > 10000 AND step_ms <= 1800000 THEN step_ms END), 0) / 1e3 AS silent_s,
    count(CASE WHEN step_ms > 10000 AND step_ms <= 1800000 THEN 1 END) AS gaps,
    max(CASE WHEN step_ms > 10000 AND step_ms <= 1800000 THEN step_ms END) / 1e3 AS longest_gap_s,
    count(gap_ms) AS interruptions
  FROM steps
  GROUP BY site, device
), gap_lines AS (
  SELECT id, arbitrary(site) AS site, arbitrary(cause) AS cause, arbitrary(devices) AS devices
  FROM lines
  WHERE type = 'gap' AND dt >= date_format(current_date - INTERVAL '7' DAY, '%Y-%m-%d')
  GROUP BY id
), missing AS (
  SELECT g.site, names.device, g.cause, g.devices[names.device] AS readings
  FROM gap_lines g
  CROSS JOIN UNNEST(map_keys(g.devices)) AS names (device)
), told AS (
  SELECT site, device,
    sum(CASE WHEN cause = 'lost' THEN readings ELSE 0 END) AS lost,
    sum(CASE WHEN cause = 'evicted' THEN readings ELSE 0 END) AS evicted,
    sum(CASE WHEN cause = 'thinned' THEN readings ELSE 0 END) AS thinned,
    sum(CASE WHEN cause = 'withheld' THEN readings ELSE 0 END) AS withheld,
    sum(CASE WHEN cause = 'erased' THEN readings ELSE 0 END) AS erased
  FROM missing
  GROUP BY site, device
)
SELECT coalesce(h.site, t.site) AS site, coalesce(h.device, t.device) AS device, coalesce(h.readings, 0) AS readings,
  h.first_heard, h.last_heard, h.worn_s, CASE WHEN h.worn_s > 0 THEN round(1e2 - 1e2 * h.silent_s / h.worn_s, 2) END
  AS coverage_percent, h.gaps, h.longest_gap_s, h.interruptions, coalesce(t.lost, 0) AS lost, coalesce(t.evicted, 0) AS evicted,
  coalesce(t.thinned, 0) AS thinned, coalesce(t.withheld, 0) AS withheld, coalesce(t.erased, 0) AS erased
FROM heard h
FULL OUTER JOIN told t ON t.device = h.device AND coalesce(t.site, '') = coalesce(h.site, '')
ORDER BY 1, 2

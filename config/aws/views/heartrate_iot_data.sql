-- heartrate_iot_data: the table of the pipeline that this one grew from (see config/mappings/serverless-talk.toml),
-- with the readings that may enter an average. rateType: LOW below 60, HIGH above 100 beats a minute.
SELECT bpm AS heartRate, device AS userId,
  CASE WHEN bpm < 60 THEN 'LOW' WHEN bpm > 100 THEN 'HIGH' ELSE 'NORMAL' END AS rateType,
  time AS dateTime
FROM readings
WHERE bpm IS NOT NULL AND reason IS NULL

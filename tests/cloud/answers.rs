//! Each saved query, over files that gateways delivered, against what can be worked out by hand.

use fogbeat::reading::{Reason, Source};
use serde_json::{Value, json};

use super::site::{Said, Site, ask, steady};

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;

fn rows<'a>(answers: &'a Value, question: &str) -> &'a Vec<Value> {
    answers[question].as_array().unwrap_or_else(|| panic!("{question}: {answers}"))
}

fn of<'a>(answers: &'a Value, question: &str, device: &str) -> Vec<&'a Value> {
    rows(answers, question).iter().filter(|row| row["device"] == device).collect()
}

/// The row, reduced to the named columns.
fn only(row: &Value, columns: &[&str]) -> Value {
    columns.iter().map(|column| ((*column).to_owned(), row[*column].clone())).collect()
}

fn multi_threaded<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// 60 seconds of a strap that two gateways hear.
fn heard_by_two() -> (Vec<Said>, Vec<Said>) {
    let said = |second: i64, bpm, source, rssi| Said {
        source,
        rssi: Some(rssi),
        ..Said::new("strap-5", second * 1000 + i64::from(rssi).abs(), bpm)
    };
    let a = (0..60).map(|second| said(second, 100, Source::Advert, -60)).collect();
    let b = (0..60).map(|second| match second {
        10..20 => said(second, 110, Source::Gatt, -90),
        0..30 => said(second, 120, Source::Advert, -80),
        _ => said(second, 130, Source::Advert, -50),
    });
    (a, b.collect())
}

#[test]
fn a_strap_heard_by_two_gateways_counts_once_a_second_gatt_first_then_the_better_signal() {
    let site = Site::new();
    let (a, b) = heard_by_two();
    multi_threaded(async {
        site.gateway("gw-a", &a).await;
        site.gateway("gw-b", &b).await;
    });
    let before = site.ask(&["readings_without_duplicates", "heartrate_iot_data", "lines"]);
    let heard: Vec<u64> =
        rows(&before, "readings_without_duplicates").iter().map(|row| row["bpm"].as_u64().unwrap()).collect();
    let expected: Vec<u64> = (0..60)
        .map(|second| match second {
            10..20 => 110,
            0..30 => 100,
            _ => 130,
        })
        .collect();
    assert_eq!(heard, expected);
    // The original pipeline's table has the same hearts, in its words.
    let original = rows(&before, "heartrate_iot_data");
    assert_eq!(original.len(), 60);
    let types = |kind: &str| original.iter().filter(|row| row["rateType"] == kind).count();
    assert_eq!((types("NORMAL"), types("HIGH"), types("LOW")), (20, 40, 0));
    assert!(
        original.iter().all(|row| row["userId"] == "strap-5" && row["dateTime"].is_string()),
        "{original:?}"
    );

    // A lost confirmation: the same lines once more. No answer changes.
    let lines = rows(&before, "lines").len();
    assert_eq!(lines, 122, "120 readings and two `end` lines");
    site.deliver_again("gw-a");
    site.deliver_again("gw-b");
    let after = site.ask(&["readings_without_duplicates", "heartrate_iot_data", "lines"]);
    assert_eq!(rows(&after, "lines").len(), 2 * lines);
    assert_eq!(after["readings_without_duplicates"], before["readings_without_duplicates"]);
    assert_eq!(rows(&after, "heartrate_iot_data").len(), 60);
}

#[test]
fn two_readings_of_one_gateway_in_a_second_both_count() {
    let site = Site::new();
    let twice = [Said::new("strap-1", 10_005, 70), Said::new("strap-1", 10_995, 71)];
    multi_threaded(site.gateway("gw-a", &twice));
    assert_eq!(rows(&site.ask(&["readings"]), "readings").len(), 2);
}

#[test]
fn sessions_are_found_and_each_second_lies_in_its_zone() {
    let site = Site::new();
    // strap-17 is in the query's list with 184; half of it is 92.
    let mut said = steady("strap-17", 0, 60, 91);
    said.extend(steady("strap-17", 60, 60, 92));
    said.extend(steady("strap-17", 120, 60, 111));
    said.extend(steady("strap-17", 180, 60, 166));
    // 7 s of silence stand for themselves, 60 s for 10.
    said.extend(steady("strap-17", 246, 1, 150));
    said.extend(steady("strap-17", 306, 1, 150));
    // Not listed, so 190: 95, 114, 133, 152, 171 are where zones begin.
    for (minute, bpm) in [94, 95, 113, 114, 132, 133, 151, 152, 170, 171].into_iter().enumerate() {
        said.extend(steady("strap-2", minute as i64 * MINUTE, 60, bpm));
    }
    // A break of five minutes less a second; one of more than five with only readings that do not count in it; then
    // too short a session.
    said.extend(steady("strap-3", 0, 120, 80));
    said.extend(steady("strap-3", 119 + 5 * MINUTE, 120, 100));
    let unworn = steady("strap-3", 10 * MINUTE, 400, 90).into_iter();
    said.extend(unworn.map(|said| Said { reason: Some(Reason::NoContact), ..said }));
    said.extend(steady("strap-3", HOUR, 100, 120));
    said.extend(steady("strap-3", 2 * HOUR, 30, 120));
    multi_threaded(site.gateway("gw-a", &said));
    let answers = site.ask(&["sessions", "time_in_zones"]);

    let columns = ["started", "ended", "minutes", "readings", "min_bpm", "mean_bpm", "max_bpm"];
    let found: Vec<Value> =
        of(&answers, "sessions", "strap-3").iter().map(|row| only(row, &columns)).collect();
    let first = json!({"started": "2026-11-23T00:00:00", "ended": "2026-11-23T00:08:58", "minutes": 9.0,
        "readings": 240, "min_bpm": 80, "mean_bpm": 90.0, "max_bpm": 100});
    let second = json!({"started": "2026-11-23T01:00:00", "ended": "2026-11-23T01:01:39", "minutes": 1.7,
        "readings": 100, "min_bpm": 120, "mean_bpm": 120.0, "max_bpm": 120});
    assert_eq!(found, [first, second]);

    let zones = |device: &str| -> Vec<f64> {
        let [row] = of(&answers, "time_in_zones", device)[..] else { panic!("{device}: {answers}") };
        let columns = ["below_s", "zone_1_s", "zone_2_s", "zone_3_s", "zone_4_s", "zone_5_s"];
        columns.iter().map(|column| row[*column].as_f64().unwrap()).collect()
    };
    // The last of 166 stands for the 7 s up to the one of 150 (81.5 %, zone 4), that one for 10.
    assert_eq!(zones("strap-17"), [60.0, 60.0, 60.0, 0.0, 10.0, 66.0]);
    assert_eq!(of(&answers, "time_in_zones", "strap-17")[0]["max_bpm"], 184);
    // The very last reading stands for nothing.
    assert_eq!(zones("strap-2"), [60.0, 120.0, 120.0, 120.0, 120.0, 59.0]);
}

#[test]
fn rest_is_the_calmest_five_minutes_that_were_heard_in_full() {
    let site = Site::new();
    let mut said = steady("strap-1", 6 * HOUR, 600, 70);
    // 52 and 54 in turn, in the ninth minute of which readings do not count: they change nothing.
    said.extend((0..300).map(|s| Said::new("strap-1", (7 * HOUR + s) * 1000, 52 + 2 * (s % 2) as u16)));
    // Calmer, but one of the five minutes is missing, or says that it must not count.
    said.extend(steady("strap-1", 8 * HOUR, 240, 45));
    let loose = steady("strap-1", 9 * HOUR, 300, 40).into_iter();
    said.extend(loose.map(|said| Said { reason: Some(Reason::Jump), ..said }));
    // A device that speaks every 20 s.
    said.extend((0..30).map(|n| Said::new("slow", (10 * HOUR + n * 20) * 1000, 60)));
    // In Auckland (13 hours ahead) this is the next day.
    said.extend(steady("strap-1", 12 * HOUR, 300, 65));
    multi_threaded(site.gateway("gw-a", &said));

    let answers = site.ask(&["resting_heart_rate"]);
    let columns = ["day", "resting_bpm", "measured_at", "five_minutes"];
    let found: Vec<Value> =
        of(&answers, "resting_heart_rate", "strap-1").iter().map(|row| only(row, &columns)).collect();
    let day = json!({"day": "2026-11-23T00:00:00", "resting_bpm": 53.0, "measured_at": "2026-11-23T07:00:00",
        "five_minutes": 4});
    assert_eq!(found, [day]);
    assert_eq!(of(&answers, "resting_heart_rate", "slow")[0]["resting_bpm"], 60.0);

    let there = site.ask(&["--zone", "Pacific/Auckland", "resting_heart_rate"]);
    let found: Vec<Value> =
        of(&there, "resting_heart_rate", "strap-1").iter().map(|row| only(row, &columns)).collect();
    let first = json!({"day": "2026-11-23T00:00:00", "resting_bpm": 53.0, "measured_at": "2026-11-23T20:00:00",
        "five_minutes": 3});
    let second = json!({"day": "2026-11-24T00:00:00", "resting_bpm": 65.0, "measured_at": "2026-11-24T01:00:00",
        "five_minutes": 1});
    assert_eq!(found, [first, second]);
}

#[test]
fn coverage_tells_silence_from_not_worn() {
    let site = Site::new();
    let mut said = steady("strap-1", 0, 100, 70);
    said.extend(steady("strap-1", 119, 100, 70));
    said.extend(steady("strap-1", 219 + 31 * MINUTE, 100, 70));
    said[50].gap_ms = Some(1000);
    said.extend(steady("alone", 0, 1, 70));
    multi_threaded(site.gateway("gw-a", &said));
    let answers = site.ask(&["coverage"]);
    let [row] = of(&answers, "coverage", "strap-1")[..] else { panic!("{answers}") };
    let columns = [
        "readings",
        "worn_s",
        "gaps",
        "longest_gap_s",
        "interruptions",
        "coverage_percent",
        "lost",
        "thinned",
    ];
    // 99 + 20 + 99 + 99 seconds, 20 of them silent.
    let expected = json!({"readings": 300, "worn_s": 317.0, "gaps": 1, "longest_gap_s": 20.0, "interruptions": 1,
        "coverage_percent": 93.69, "lost": 0, "thinned": 0});
    assert_eq!(only(row, &columns), expected);
    let [row] = of(&answers, "coverage", "alone")[..] else { panic!("{answers}") };
    let expected = json!({"readings": 1, "worn_s": 0.0, "gaps": 0, "longest_gap_s": null, "interruptions": 0,
        "coverage_percent": null, "lost": 0, "thinned": 0});
    assert_eq!(only(row, &columns), expected);
}

#[test]
fn coverage_tells_what_the_gateway_itself_gave_up() {
    let site = Site::new();
    // Hardly to be compressed: thinning has to be worth it.
    let noise = |second: i64, n: u32| {
        (second as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(n * 9) as u16
    };
    let noisy = |device, seconds| {
        (0..seconds).map(move |second| Said {
            rr_ms: (1..5).map(|n| u32::from(noise(second, n))).collect(),
            ..Said::new(device, second * 1000, 60 + noise(second, 0) % 40)
        })
    };
    let said: Vec<Said> = noisy("strap-1", 20_000).chain(noisy("strap-2", 15_000)).collect();
    multi_threaded(site.thinned_gateway("gw-a", &said));
    site.deliver_again("gw-a");
    let answers = site.ask(&["coverage"]);
    for (device, thinned) in [("strap-1", 20_000), ("strap-2", 15_000)] {
        let [row] = of(&answers, "coverage", device)[..] else { panic!("{answers}") };
        assert_eq!(
            only(row, &["site", "readings", "thinned"]),
            json!({"site": "gym", "readings": 0, "thinned": thinned})
        );
    }
}

#[test]
fn the_busiest_hours_are_those_with_most_people() {
    let site = Site::new();
    let mut said = Vec::new();
    // 18:00: three straps for 10, 20 and 30 minutes, 19:00 one for 5; the day before at 18:00 one for 10.
    for (device, minutes) in [("strap-1", 10), ("strap-2", 20), ("strap-3", 30)] {
        said.extend(steady(device, 18 * HOUR, minutes * MINUTE, 120));
    }
    said.extend(steady("strap-1", 19 * HOUR - 24 * HOUR, 5 * MINUTE, 120));
    said.extend(steady("strap-2", -6 * HOUR, 10 * MINUTE, 120));
    let loose = steady("strap-9", 18 * HOUR, 60, 120).into_iter();
    said.extend(loose.map(|said| Said { reason: Some(Reason::NoContact), ..said }));
    multi_threaded(site.gateway("gw-a", &said));
    let hours = |answers: &Value| -> Vec<Value> {
        let columns = ["local_hour", "days", "mean_devices", "most_devices", "device_minutes"];
        rows(answers, "busiest_hours").iter().map(|row| only(row, &columns)).collect()
    };
    let busiest = |hour: u64| json!({"local_hour": hour, "days": 2, "mean_devices": 2.0, "most_devices": 3, "device_minutes": 70});
    let next = |hour: u64| json!({"local_hour": hour, "days": 1, "mean_devices": 1.0, "most_devices": 1, "device_minutes": 5});
    assert_eq!(hours(&site.ask(&["busiest_hours"])), [busiest(18), next(19)]);
    assert_eq!(hours(&site.ask(&["--zone", "Europe/Berlin", "busiest_hours"])), [busiest(19), next(20)]);
}

#[test]
fn batteries_and_signals_are_told_per_device() {
    let site = Site::new();
    let mut said = Vec::new();
    // Ten days, twice a day: the battery falls by 2 % a day. Every fifth is heard badly, two have no contact.
    for n in 0..20_i64 {
        said.push(Said {
            battery: Some(u8::try_from(60 - n).unwrap()),
            rssi: Some(if n % 5 == 0 { -95 } else { -70 }),
            reason: (n < 2).then_some(Reason::NoContact),
            ..Said::new("strap-1", (n - 20) * 12 * HOUR * 1000, 70)
        });
    }
    said.push(Said { bpm: None, reason: Some(Reason::Zero), ..Said::new("strap-2", 0, 0) });
    multi_threaded(site.gateway("gw-a", &said));
    let answers = site.ask(&["device_health"]);
    let columns = [
        "readings",
        "last_heard",
        "battery_percent",
        "battery_percent_a_day",
        "days_to_empty",
        "mean_rssi_dbm",
        "least_rssi_dbm",
        "weak_percent",
        "unusable_percent",
        "no_contact",
        "zero",
        "other_reasons",
    ];
    let found: Vec<Value> = rows(&answers, "device_health").iter().map(|row| only(row, &columns)).collect();
    let first = json!({"readings": 20, "last_heard": "2026-11-22T12:00:00", "battery_percent": 41,
        "battery_percent_a_day": -2.0, "days_to_empty": 20.5, "mean_rssi_dbm": -75.0, "least_rssi_dbm": -95,
        "weak_percent": 20.0, "unusable_percent": 10.0, "no_contact": 2, "zero": 0, "other_reasons": 0});
    let second = json!({"readings": 1, "last_heard": "2026-11-23T00:00:00", "battery_percent": null,
        "battery_percent_a_day": null, "days_to_empty": null, "mean_rssi_dbm": null, "least_rssi_dbm": null,
        "weak_percent": null, "unusable_percent": 100.0, "no_contact": 0, "zero": 1, "other_reasons": 0});
    assert_eq!(found, [first, second]);
}

#[test]
fn a_day_goes_to_parquet_once() {
    let site = Site::new();
    multi_threaded(site.gateway("gw-a", &steady("strap-1", 0, 100, 70)));
    site.deliver_again("gw-a");
    // The table is made before the day is over: nothing of it is in there yet. The day after brings it, once.
    let steps = ["parquet_table@2026-11-23", "parquet_daily@2026-11-24", "lines_parquet"];
    let answers = site.ask(&steps);
    let lines = rows(&answers, "lines_parquet");
    assert_eq!(lines.len(), 101, "100 readings and an `end` line, of 202 delivered ones");
    let again = site.ask(&["parquet_table@2026-11-24", "parquet_daily@2026-11-24", "lines_parquet"]);
    assert_eq!(rows(&again, "lines_parquet").len(), 101);
    assert_eq!(lines[0]["dt"], "2026-11-23");
}

#[test]
fn views_have_the_columns_that_the_catalog_says() {
    let site = Site::new();
    multi_threaded(site.gateway("gw-a", &steady("strap-1", 0, 1, 70)));
    let answers = site.ask(&["readings", "heartrate_iot_data"]);
    let stack = super::run(&super::script("stack.py"), &["--views"]);
    let told: Value = serde_json::from_str(&stack).unwrap();
    for view in ["readings", "heartrate_iot_data"] {
        let row = rows(&answers, view)[0].as_object().unwrap();
        let mut found: Vec<String> = row.keys().map(|key| key.to_lowercase()).collect();
        let mut expected: Vec<String> =
            told[view].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{view}");
    }
}

#[test]
fn an_empty_lake_is_asked_in_vain_but_without_an_error() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("gw/readings/dt=2026-11-23/hour=19");
    std::fs::create_dir_all(&folder).unwrap();
    // An empty gzip member.
    let empty = [31, 139, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    std::fs::write(folder.join("a.json.gz"), empty).unwrap();
    let answers = ask(&root.path().join("*"), &[]);
    for (question, rows) in answers.as_object().unwrap() {
        if !question.starts_with("parquet") {
            assert_eq!(rows, &json!([]), "{question}");
        }
    }
    assert!(answers.as_object().unwrap().len() >= 10);
}

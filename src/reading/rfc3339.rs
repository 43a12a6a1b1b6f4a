//! RFC 3339 moments, read and written as milliseconds since the Unix epoch.
//!
//! Both directions are on the hot way of every reading, so they work on bytes and allocate nothing. The writer always
//! gives UTC with milliseconds and `Z`; the reader takes any offset, a fraction of any length (cut to milliseconds),
//! `t`, `z` and a space in place of `T`, as the RFC allows. A moment without an offset is no RFC 3339 moment; for the
//! senders that write UTC without saying so there is [`parse_utc_seconds`].

const MS_PER_DAY: i64 = 86_400_000;
/// 9999-12-31T23:59:59.999Z, the last moment four digits of a year can say.
pub const MAX_MS: i64 = 253_402_300_799_999;
/// 0000-01-01T00:00:00.000Z.
pub const MIN_MS: i64 = -62_167_219_200_000;

/// Appends `ms` as `2026-11-23T19:02:10.123Z`. Moments outside the years 0 to 9999 are written as the nearest of them.
pub fn write(out: &mut Vec<u8>, ms: i64) {
    let ms = ms.clamp(MIN_MS, MAX_MS);
    let (year, month, day) = civil_from_days(ms.div_euclid(MS_PER_DAY));
    let in_day = ms.rem_euclid(MS_PER_DAY);
    let (seconds, millis) = (in_day / 1000, in_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let digit = |n: i64| b'0' + (n % 10) as u8;
    out.extend_from_slice(&[
        digit(year / 1000),
        digit(year / 100),
        digit(year / 10),
        digit(year),
        b'-',
        digit(month / 10),
        digit(month),
        b'-',
        digit(day / 10),
        digit(day),
        b'T',
        digit(hour / 10),
        digit(hour),
        b':',
        digit(minute / 10),
        digit(minute),
        b':',
        digit(second / 10),
        digit(second),
        b'.',
        digit(millis / 100),
        digit(millis / 10),
        digit(millis),
        b'Z',
    ]);
}

/// Reads an RFC 3339 moment. `None` when it is not one. A leap second is the first moment of the next minute.
pub fn parse(text: &str) -> Option<i64> {
    let (seconds, rest) = date_and_time(text.as_bytes())?;
    let (millis, rest) = fraction(rest)?;
    let offset = match rest {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(*h1, *h2)?, two(*m1, *m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3600 + minutes * 60) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    Some((seconds - offset) * 1000 + millis)
}

/// Reads `2017-09-20 10:11:12` (or with `T`, or with a fraction), which the sender means as UTC. `None` otherwise.
pub fn parse_utc_seconds(text: &str) -> Option<i64> {
    let (seconds, rest) = date_and_time(text.as_bytes())?;
    let (millis, rest) = fraction(rest)?;
    rest.is_empty().then_some(seconds * 1000 + millis)
}

/// Seconds since the epoch of `YYYY-MM-DDTHH:MM:SS`, and what follows.
fn date_and_time(text: &[u8]) -> Option<(i64, &[u8])> {
    let (
        &[y1, y2, y3, y4, b'-', o1, o2, b'-', d1, d2, b'T' | b't' | b' ', h1, h2, b':', m1, m2, b':', s1, s2],
        rest,
    ) = text.split_first_chunk::<19>()?
    else {
        return None;
    };
    let year = two(y1, y2)? * 100 + two(y3, y4)?;
    let (month, day) = (two(o1, o2)?, two(d1, d2)?);
    let (hour, minute, second) = (two(h1, h2)?, two(m1, m2)?, two(s1, s2)?);
    if !(1..=12).contains(&month)
        || !(1..=days_in_month(year, month)).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    Some((days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second, rest))
}

/// Milliseconds of an optional fraction (`.123456`), and what follows.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', mut rest)) = text.split_first() else {
        return Some((0, text));
    };
    let (mut millis, mut place) = (0, 100);
    let mut any = false;
    while let Some((c @ b'0'..=b'9', tail)) = rest.split_first() {
        millis += i64::from(c - b'0') * place;
        place /= 10;
        any = true;
        rest = tail;
    }
    any.then_some((millis, rest))
}

fn two(high: u8, low: u8) -> Option<i64> {
    (high.is_ascii_digit() && low.is_ascii_digit())
        .then(|| i64::from(high - b'0') * 10 + i64::from(low - b'0'))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (years that begin in March make leap days come last).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`]: (year, month, day).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    fn written(ms: i64) -> String {
        let mut out = Vec::new();
        write(&mut out, ms);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_moments() {
        assert_eq!(written(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(written(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(written(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(written(i64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(parse("2020-02-05T07:25:00-08:00"), Some(1_580_916_300_000));
        assert_eq!(parse("2020-02-05t15:25:00.0009z"), Some(1_580_916_300_000));
        assert_eq!(parse("2016-12-31 23:59:60Z"), Some(1_483_228_800_000));
        assert_eq!(parse_utc_seconds("2017-09-20 10:11:12"), Some(1_505_902_272_000));
    }

    #[test]
    fn what_is_no_moment() {
        for text in [
            "",
            "2020-02-05",
            "2020-02-05T07:25:00",
            "2020-02-30T07:25:00Z",
            "2021-02-29T07:25:00Z",
            "2020-13-05T07:25:00Z",
            "2020-02-05T24:25:00Z",
            "2020-02-05T07:60:00Z",
            "2020-02-05T07:25:61Z",
            "2020-02-05T07:25:00.Z",
            "2020-02-05T07:25:00+0100",
            "2020-02-05T07:25:00Zx",
            "+020-02-05T07:25:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse_utc_seconds("2017-09-20 10:11:12Z"), None);
    }

    proptest! {
        #[test]
        fn agrees_with_the_time_crate(ms in MIN_MS..=MAX_MS) {
            let theirs = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap();
            let text = written(ms);
            prop_assert_eq!(OffsetDateTime::parse(&text, &Rfc3339).unwrap(), theirs);
            prop_assert_eq!(parse(&text), Some(ms));
            prop_assert_eq!(parse(&theirs.format(&Rfc3339).unwrap()), Some(ms));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            parse(&text);
            parse_utc_seconds(&text);
        }
    }
}

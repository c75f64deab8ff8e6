//! Times as events carry them: RFC 3339 text to microseconds since 1970-01-01 UTC.
//!
//! By hand, because a date library would be half of a small guest.

const MICROS: i64 = 1_000_000;

/// Reads `2026-11-23T07:11:32.123Z` or one with an offset such as `+09:00`; up to six digits of a second.
///
/// # Errors
/// Says what is wrong with the text. A leap second (`:60`) is refused, as the store can't hold it.
pub fn parse_rfc3339_us(text: &str) -> Result<i64, String> {
    read(text.as_bytes()).ok_or_else(|| "not a time such as 2026-11-23T07:11:32.123Z".to_owned())
}

fn read(text: &[u8]) -> Option<i64> {
    let (fixed, rest) = text.split_at_checked(19)?;
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !separators.iter().all(|&(at, separator)| fixed[at] == separator) {
        return None;
    }
    let year = number(&fixed[0..4])?;
    let month = within(number(&fixed[5..7])?, 1, 12)?;
    let day = within(number(&fixed[8..10])?, 1, days_in_month(year, month))?;
    let hour = within(number(&fixed[11..13])?, 0, 23)?;
    let minute = within(number(&fixed[14..16])?, 0, 59)?;
    let second = within(number(&fixed[17..19])?, 0, 59)?;
    let (micros, zone) = fraction(rest)?;
    let local = days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some((local - offset_seconds(zone)?) * MICROS + micros)
}

/// Microseconds of `.123`, and what follows it.
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some(rest) = rest.strip_prefix(b".") else { return Some((0, rest)) };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=6).contains(&digits) {
        return None;
    }
    let (digits, zone) = rest.split_at(digits);
    let missing = 6 - u32::try_from(digits.len()).ok()?;
    Some((number(digits)? * 10_i64.pow(missing), zone))
}

fn offset_seconds(zone: &[u8]) -> Option<i64> {
    let sign = match zone.first()? {
        b'Z' if zone.len() == 1 => return Some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    if zone.len() != 6 || zone[3] != b':' {
        return None;
    }
    let hours = within(number(&zone[1..3])?, 0, 23)?;
    let minutes = within(number(&zone[4..6])?, 0, 59)?;
    Some(sign * (hours * 3_600 + minutes * 60))
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

fn within(value: i64, low: i64, high: i64) -> Option<i64> {
    (low..=high).contains(&value).then_some(value)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01. Years are counted from March, so that the leap day is a year's last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    /// 0000-03-01 is this many days before 1970-01-01.
    const MARCH_OF_YEAR_0: i64 = 719_468;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - MARCH_OF_YEAR_0
}

#[cfg(test)]
mod tests {
    use super::parse_rfc3339_us;
    use proptest::prelude::*;
    use time::{OffsetDateTime, format_description::well_known::Rfc3339};

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "2026-11-23",
            "2026-11-23T07:11:32",
            "2026-11-23 07:11:32Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T07:11:60Z",
            "2026-11-23T07:11:32.Z",
            "2026-11-23T07:11:32.1234567Z",
            "2026-11-23T07:11:32+0900",
            "2026-11-23T07:11:32ZZ",
        ] {
            assert!(parse_rfc3339_us(bad).is_err(), "{bad:?} was read");
        }
    }

    #[test]
    fn an_offset_is_taken_away() {
        assert_eq!(parse_rfc3339_us("1970-01-01T09:00:00.000001+09:00"), Ok(1));
        assert_eq!(parse_rfc3339_us("2024-02-29T23:59:59-00:30"), Ok(1_709_252_999_000_000));
    }

    proptest! {
        #[test]
        fn agrees_with_the_time_crate(micros in 0_i64..253_402_300_799_000_000) {
            let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
                .expect("in the range of the time crate");
            let text = time.format(&Rfc3339).expect("a formattable time");
            prop_assert_eq!(parse_rfc3339_us(&text), Ok(micros));
        }
    }
}

//! Times: microseconds since 1970-01-01 UTC to `2026-01-02 03:04:05.678`.
//!
//! By hand: each row has four of them, and this is a fifth of what a date library takes.

/// What DateTime64 can hold: 1900-01-01 00:00:00 to 2299-12-31 23:59:59.999999, in microseconds.
const RANGE_US: std::ops::RangeInclusive<i64> = -2_208_988_800_000_000..=10_413_791_999_999_999;

/// Writes the time as a JSON string with `digits` digits of a second; refuses one that needs more.
pub(super) fn write(micros: i64, digits: u32, out: &mut Vec<u8>) -> Result<(), &'static str> {
    if !RANGE_US.contains(&micros) {
        return Err("outside the years 1900 to 2299");
    }
    if micros % 10_i64.pow(6 - digits) != 0 {
        return Err("finer than the column's digits of a second");
    }
    put(micros, digits, out);
    Ok(())
}

/// Writes a time of the host itself, to the millisecond, cutting what is finer and clamping what ClickHouse
/// can't hold: it informs, no figure rests on it.
pub(crate) fn write_millis(micros: i64, out: &mut Vec<u8>) {
    put(micros.clamp(*RANGE_US.start(), *RANGE_US.end()), 3, out);
}

/// `micros` within [`RANGE_US`]. In numbers without a sign, and of 32 bits where they fit: they are divided fastest.
fn put(micros: i64, digits: u32, out: &mut Vec<u8>) {
    const DAY_US: u64 = 86_400_000_000;
    /// 0000-03-01, which no time comes before.
    const MARCH_OF_YEAR_0_US: i64 = -719_468 * DAY_US as i64;
    /// Days in 400 years.
    const ERA: u32 = 146_097;
    let micros = micros.wrapping_sub(MARCH_OF_YEAR_0_US) as u64;
    let (days, in_day) = ((micros / DAY_US) as u32, micros % DAY_US);
    let (second, micros) = ((in_day / 1_000_000) as u32, (in_day % 1_000_000) as u32);
    // Years are counted from March, so that the leap day is a year's last.
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) =
        if month < 10 { (year + era * 400, month + 3) } else { (year + era * 400 + 1, month - 9) };

    let mut text = *b"\"0000-00-00 00:00:00.000000";
    for (at, part) in [
        (1, year / 100),
        (3, year % 100),
        (6, month),
        (9, day),
        (12, second / 3_600),
        (15, second / 60 % 60),
        (18, second % 60),
        (21, micros / 10_000),
        (23, micros / 100 % 100),
        (25, micros % 100),
    ] {
        text[at..at + 2].copy_from_slice(&TWO_DIGITS[part as usize]);
    }
    let end = if digits == 0 { 20 } else { 21 + digits as usize };
    out.extend_from_slice(&text[..end]);
    out.push(b'"');
}

/// Of each number below 100.
static TWO_DIGITS: [[u8; 2]; 100] = {
    let mut all = [[b'0'; 2]; 100];
    let mut number = 0;
    while number < 100 {
        all[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    all
};

#[cfg(test)]
mod tests {
    use super::*;
    use ::time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
    use proptest::prelude::*;

    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("\"[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]\"");

    proptest! {
        #[test]
        fn agrees_with_the_time_crate(micros in RANGE_US) {
            let mut out = Vec::new();
            put(micros, 6, &mut out);
            let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).expect("in its range");
            prop_assert_eq!(String::from_utf8(out).expect("ASCII"), time.format(FORMAT).expect("it can be written"));
        }
    }
}

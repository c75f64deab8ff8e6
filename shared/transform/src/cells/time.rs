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

fn put(micros: i64, digits: u32, out: &mut Vec<u8>) {
    /// Days from 0000-03-01 to 1970-01-01, and in 400 years.
    const MARCH_OF_YEAR_0: i64 = 719_468;
    const ERA: i64 = 146_097;
    let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years are counted from March, so that the leap day is a year's last.
    let day = days + MARCH_OF_YEAR_0;
    let (era, day) = (day.div_euclid(ERA), day.rem_euclid(ERA));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) =
        if month < 10 { (year + era * 400, month + 3) } else { (year + era * 400 + 1, month - 9) };

    let mut text = *b"\"0000-00-00 00:00:00.";
    for (at, part) in [
        (1, year / 100),
        (3, year % 100),
        (6, month),
        (9, day),
        (12, second / 3_600),
        (15, second / 60 % 60),
        (18, second % 60),
    ] {
        text[at..at + 2].copy_from_slice(&two_digits(part));
    }
    if digits == 0 {
        out.extend_from_slice(&text[..20]);
    } else {
        out.extend_from_slice(&text);
        let mut fraction = [0; 6];
        for (pair, part) in
            fraction.chunks_exact_mut(2).zip([micros / 10_000, micros / 100 % 100, micros % 100])
        {
            pair.copy_from_slice(&two_digits(part));
        }
        out.extend_from_slice(&fraction[..digits as usize]);
    }
    out.push(b'"');
}

/// Of a number below 100.
fn two_digits(number: i64) -> [u8; 2] {
    let digit = |digit: i64| b'0' + u8::try_from(digit).expect("a digit is below ten");
    [digit(number / 10), digit(number % 10)]
}

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

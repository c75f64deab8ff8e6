//! Times: microseconds since 1970-01-01 UTC to `2026-01-02 03:04:05.678`.

use time::OffsetDateTime;

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
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
        .expect("the years 1900 to 2299 are in its range");
    let year = u32::try_from(time.year()).expect("the years 1900 to 2299 are positive");
    out.push(b'"');
    number(year, 4, out);
    for (before, part) in [
        (b'-', u8::from(time.month())),
        (b'-', time.day()),
        (b' ', time.hour()),
        (b':', time.minute()),
        (b':', time.second()),
    ] {
        out.push(before);
        number(part.into(), 2, out);
    }
    if digits > 0 {
        out.push(b'.');
        number(time.microsecond() / 10_u32.pow(6 - digits), digits, out);
    }
    out.push(b'"');
}

/// The number in exactly `width` digits.
fn number(number: u32, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        let digit = number / 10_u32.pow(place) % 10;
        out.push(b'0' + u8::try_from(digit).expect("a digit is below ten"));
    }
}

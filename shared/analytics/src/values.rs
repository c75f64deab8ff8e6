//! The cell types that JSON and ClickHouse write differently: money and time. Exact on both sides; no float anywhere.
//!
//! In JSON money is a decimal string ("12.34") and a time is text ("2026-01-02 03:04:05.678", UTC); in RowBinary both
//! are integers: cents and milliseconds.

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, fmt, ops::Range, str::FromStr};
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// Decimal(18, 2) holds sixteen digits before the point.
const MAX_CENTS: i64 = 999_999_999_999_999_999;
const CENT_DIGITS: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    #[error("{text:?} is not an amount: write digits, a point and at most two decimals, below 10^16")]
    Amount { text: String },
    #[error("{text:?} is not a time: write it in UTC as \"2026-01-02 03:04:05.678\"")]
    Time { text: String },
}

/// Money in cents, as ClickHouse's Decimal(18, 2) holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i64);

impl Amount {
    pub fn from_cents(cents: i64) -> Self {
        Self(cents)
    }

    pub fn cents(self) -> i64 {
        self.0
    }

    pub fn decimal(self) -> Decimal {
        Decimal::new(self.0, CENT_DIGITS)
    }
}

impl TryFrom<Decimal> for Amount {
    type Error = ValueError;

    /// Refuses what two decimals cannot hold, rather than rounding it.
    fn try_from(decimal: Decimal) -> Result<Self, ValueError> {
        let error = || ValueError::Amount { text: decimal.to_string() };
        let mut cents = decimal.normalize();
        if cents.scale() > CENT_DIGITS {
            return Err(error());
        }
        cents.rescale(CENT_DIGITS);
        let cents = i64::try_from(cents.mantissa()).map_err(|_| error())?;
        if cents.abs() > MAX_CENTS { Err(error()) } else { Ok(Self(cents)) }
    }
}

impl FromStr for Amount {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = || ValueError::Amount { text: text.to_owned() };
        // The decimal parser also takes "1_000" and ".5"; our rows have one way to write an amount.
        let digits = text.strip_prefix('-').unwrap_or(text);
        if !digits.starts_with(|c: char| c.is_ascii_digit())
            || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
            || digits.ends_with('.')
        {
            return Err(error());
        }
        Decimal::from_str_exact(text).map_err(|_| error()).and_then(Self::try_from).map_err(|_| error())
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.decimal().fmt(f)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            from_text(deserializer)
        } else {
            i64::deserialize(deserializer).map(Self)
        }
    }
}

/// A sum of money in cents, as ClickHouse's Decimal(38, 2) holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(transparent)]
pub struct Sum(i128);

impl Sum {
    pub fn from_cents(cents: i128) -> Self {
        Self(cents)
    }

    pub fn cents(self) -> i128 {
        self.0
    }
}

impl std::ops::AddAssign<Amount> for Sum {
    fn add_assign(&mut self, amount: Amount) {
        self.0 += i128::from(amount.0);
    }
}

impl std::ops::AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let cents = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", cents / 100, cents % 100)
    }
}

/// A time in milliseconds since the epoch, UTC, as ClickHouse's DateTime64(3, 'UTC') holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub fn millis(self) -> i64 {
        self.0
    }

    /// None outside the years that a calendar date can hold.
    fn date_time(self) -> Option<OffsetDateTime> {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000).ok()
    }
}

impl From<OffsetDateTime> for Timestamp {
    /// Cuts below the millisecond.
    fn from(at: OffsetDateTime) -> Self {
        let millis = at.unix_timestamp_nanos().div_euclid(1_000_000);
        Self(i64::try_from(millis).expect("a calendar date is within 10^15 ms of the epoch"))
    }
}

impl FromStr for Timestamp {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let millis = parse_ticks(text.as_bytes(), 3);
        millis.map(Self).ok_or_else(|| ValueError::Time { text: text.to_owned() })
    }
}

/// Reads "2026-01-02 03:04:05.678" with so many digits of a second, at most 6; the answer's unit is the last digit's.
///
/// One fixed form, read by position: this runs five times a row, and a format description costs ten times as much.
pub(crate) fn parse_ticks(text: &[u8], digits: u32) -> Option<i64> {
    const FORM: &[u8; 26] = b"0000-00-00 00:00:00.000000";
    const WITHOUT_FRACTION: usize = 19;
    let length = WITHOUT_FRACTION + if digits == 0 { 0 } else { 1 + digits as usize };
    let fits = text.len() == length
        && text.iter().zip(FORM).all(|(&b, &f)| if f == b'0' { b.is_ascii_digit() } else { b == f });
    if !fits {
        return None;
    }
    let number = |part: Range<usize>| text[part].iter().fold(0_u32, |n, b| n * 10 + u32::from(b - b'0'));
    let small = |from: usize| u8::try_from(number(from..from + 2)).ok();
    let year = i32::try_from(number(0..4)).ok()?;
    let date = Date::from_calendar_date(year, Month::try_from(small(5)?).ok()?, small(8)?).ok()?;
    let time = Time::from_hms(small(11)?, small(14)?, small(17)?).ok()?;
    let seconds = PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp();
    let fraction = if digits == 0 { 0 } else { number(WITHOUT_FRACTION + 1..length) };
    Some(seconds * 10_i64.pow(digits) + i64::from(fraction))
}

/// The months that a table may be partitioned by, in seconds: from 2000 up to 2100. Every table holds its creation time
/// to it by a constraint, because what is derived from it (a quarter of an hour, a DateTime) ends in 2106 and would wrap.
pub(crate) const MONTH_SECONDS: Range<i64> = 946_684_800..4_102_444_800;

/// Months since year 0, UTC: equal for two times exactly where their partition is.
pub(crate) fn month(seconds: i64) -> i32 {
    let at = OffsetDateTime::from_unix_timestamp(seconds).ok();
    at.map_or(i32::MAX, |at| at.year() * 12 + i32::from(u8::from(at.month())))
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(at) = self.date_time() else { return write!(f, "{} ms", self.0) };
        let (date, time) = (at.date(), at.time());
        let month = u8::from(date.month());
        write!(f, "{:04}-{month:02}-{:02} ", date.year(), date.day())?;
        write!(f, "{:02}:{:02}:{:02}.{:03}", time.hour(), time.minute(), time.second(), time.millisecond())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            from_text(deserializer)
        } else {
            i64::deserialize(deserializer).map(Self)
        }
    }
}

fn from_text<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err = ValueError>,
    D: Deserializer<'de>,
{
    Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_in_both_directions() {
        for text in ["0.00", "0.01", "59.97", "-3.50", "9999999999999999.99"] {
            assert_eq!(text.parse::<Amount>().expect(text).to_string(), text);
        }
        assert_eq!("5".parse::<Amount>().expect("no decimals are fine").cents(), 500);
        assert_eq!("5.10".parse::<Amount>().expect("a trailing zero is fine").cents(), 510);
    }

    #[test]
    fn an_amount_that_would_have_to_be_rounded_or_guessed_is_refused() {
        for text in ["1.005", "", ".5", "5.", "1e3", "1,5", "1_000", "+1", "--1", "NaN", "10000000000000000"]
        {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_exact_in_both_directions() {
        for text in ["2026-01-02 03:04:05.678", "1969-12-31 23:59:59.999", "2024-02-29 00:00:00.000"] {
            assert_eq!(text.parse::<Timestamp>().expect(text).to_string(), text);
        }
        assert_eq!("1970-01-01 00:00:01.002".parse::<Timestamp>().expect("it fits").millis(), 1002);
    }

    #[test]
    fn a_time_in_another_form_is_refused() {
        for text in [
            "2026-01-02T03:04:05.678Z",
            "2026-01-02 03:04:05",
            "2026-02-30 03:04:05.678",
            "2026-01-02 24:00:00.000",
            "1767323045678",
            "2026-01-02 03:04:05.6789",
            "2026-01-0é 03:04:05.67",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_sum_is_written_like_an_amount() {
        let mut sum = Sum::default();
        sum += Amount::from_cents(-5);
        assert_eq!(sum.to_string(), "-0.05");
        sum += Amount::from_cents(MAX_CENTS);
        sum += Amount::from_cents(MAX_CENTS);
        assert_eq!(sum.to_string(), "19999999999999999.93");
    }

    #[test]
    fn times_of_each_precision_are_exact() {
        for (text, digits, ticks) in [
            ("1970-01-01 00:00:01", 0, 1),
            ("1970-01-01 00:00:01.2", 1, 12),
            ("1970-01-01 00:00:01.000002", 6, 1_000_002),
            ("1969-12-31 23:59:59.9", 1, -1),
            ("2299-12-31 23:59:59.999999", 6, 10_413_791_999_999_999),
        ] {
            assert_eq!(parse_ticks(text.as_bytes(), digits), Some(ticks), "{text}");
            assert_eq!(parse_ticks(text.as_bytes(), digits + 1), None, "{text}");
        }
        assert_eq!(parse_ticks(b"1970-01-01 00:00:01.", 0), None);
    }

    #[test]
    fn months_change_with_the_partition() {
        let month = |text: &str| month(parse_ticks(text.as_bytes(), 0).expect(text));
        assert_eq!(month("2026-01-01 00:00:00"), month("2026-01-31 23:59:59"));
        assert_eq!(month("2026-01-31 23:59:59") + 1, month("2026-02-01 00:00:00"));
        assert_eq!(month("2025-12-31 00:00:00") + 1, month("2026-01-01 00:00:00"));
    }

    #[test]
    fn the_range_of_months_is_the_one_that_tables_hold() {
        let at = |text: &str| parse_ticks(text.as_bytes(), 0).expect(text);
        assert_eq!(MONTH_SECONDS, at("2000-01-01 00:00:00")..at("2100-01-01 00:00:00"));
    }
}

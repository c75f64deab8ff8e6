//! The shop's clock: to which hour and day a moment belongs. Counted here, independently of ClickHouse's own calendar.

use anyhow::Context;
use jiff::{civil::DateTime, tz::TimeZone};
use outflow_analytics::Timestamp;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Hours and days of one time zone.
#[derive(Clone, Debug)]
pub(super) struct ShopClock(TimeZone);

impl ShopClock {
    pub(super) fn new(zone: &str) -> anyhow::Result<Self> {
        TimeZone::get(zone).map(Self).with_context(|| format!("time zone {zone} is unknown"))
    }

    /// Start of the hour, in seconds since the epoch.
    pub(super) fn hour(&self, at: Timestamp) -> i64 {
        let offset = self.offset_ms(at);
        ((at.millis() + offset).div_euclid(HOUR_MS) * HOUR_MS - offset) / 1000
    }

    /// The local date, in days since 1970-01-01.
    pub(super) fn day(&self, at: Timestamp) -> i64 {
        (at.millis() + self.offset_ms(at)).div_euclid(DAY_MS)
    }

    /// A time with an offset (RFC 3339) as it stands; a date, or a time without an offset, in the shop's zone.
    pub(super) fn parse(&self, text: &str) -> anyhow::Result<Timestamp> {
        const FORMS: &str =
            "write 2026-11-23T07:00:00Z, or 2026-11-23 for the start of that day in the shop's zone";
        let moment = match text.parse::<jiff::Timestamp>() {
            Ok(moment) => moment,
            Err(_) => {
                text.parse::<DateTime>().context(FORMS)?.to_zoned(self.0.clone()).context(FORMS)?.timestamp()
            }
        };
        Ok(Timestamp::from_millis(moment.as_millisecond()))
    }

    fn offset_ms(&self, at: Timestamp) -> i64 {
        // Beyond the years that jiff knows nothing of the shop's lies either.
        let moment = jiff::Timestamp::from_millisecond(at.millis()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        i64::from(self.0.to_offset(moment).seconds()) * 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect(text)
    }

    #[track_caller]
    fn check_hour(zone: &str, moment: &str, start: &str) {
        let clock = ShopClock::new(zone).expect(zone);
        assert_eq!(Timestamp::from_millis(clock.hour(at(moment)) * 1000), at(start), "{zone} {moment}");
    }

    #[test]
    fn an_hour_begins_where_the_shop_says() {
        check_hour("UTC", "2026-11-23 07:59:59.999", "2026-11-23 07:00:00.000");
        check_hour("Asia/Seoul", "2026-11-23 07:15:00.000", "2026-11-23 07:00:00.000");
        // Half an hour off: 03:45 in St John's is 07:15 UTC.
        check_hour("America/St_Johns", "2026-11-23 07:15:00.000", "2026-11-23 06:30:00.000");
        check_hour("Asia/Kathmandu", "2026-11-23 07:20:00.000", "2026-11-23 07:15:00.000");
    }

    #[test]
    fn the_hour_that_comes_twice_is_two_hours() {
        // New York's 01:30 before and after the clocks go back.
        check_hour("America/New_York", "2026-11-01 05:30:00.000", "2026-11-01 05:00:00.000");
        check_hour("America/New_York", "2026-11-01 06:30:00.000", "2026-11-01 06:00:00.000");
    }

    #[test]
    fn a_day_is_the_shops() {
        let seoul = ShopClock::new("Asia/Seoul").expect("it exists");
        assert_eq!(seoul.day(at("2026-11-22 14:59:59.999")) + 1, seoul.day(at("2026-11-22 15:00:00.000")));
    }

    #[test]
    fn a_time_without_an_offset_is_the_shops() {
        let seoul = ShopClock::new("Asia/Seoul").expect("it exists");

        assert_eq!(seoul.parse("2026-11-23").expect("a date"), at("2026-11-22 15:00:00.000"));
        assert_eq!(seoul.parse("2026-11-23T09:30").expect("a local time"), at("2026-11-23 00:30:00.000"));
        assert_eq!(seoul.parse("2026-11-23T09:30:00Z").expect("a moment"), at("2026-11-23 09:30:00.000"));
        assert!(seoul.parse("yesterday").is_err());
    }
}

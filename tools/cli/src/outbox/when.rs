//! Times and durations as people write them.

use anyhow::{Context, ensure};
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, civil::DateTime, tz::TimeZone};
use std::time::Duration;
use time::OffsetDateTime;

/// `7d`, `12h`, `90s`, `1h 30m`; a day has 24 hours.
pub(crate) fn duration(text: &str) -> anyhow::Result<Duration> {
    const FORMS: &str = "write 7d, 12h, 30m or 90s";
    let span: Span = text.parse().context(FORMS)?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).context(FORMS)?;
    ensure!(duration >= SignedDuration::ZERO, "it must not be negative: {FORMS}");
    Duration::try_from(duration).context(FORMS)
}

/// A moment with an offset; a date or a time without one, in UTC; or so long ago, as `2h`.
pub(crate) fn moment(text: &str) -> anyhow::Result<OffsetDateTime> {
    const FORMS: &str = "write 2026-11-23T07:00:00Z, 2026-11-23 (UTC), or 2h for two hours ago";
    if let Ok(ago) = duration(text) {
        let ago = time::Duration::try_from(ago).context(FORMS)?;
        return OffsetDateTime::now_utc().checked_sub(ago).context(FORMS);
    }
    let moment = match text.parse::<Timestamp>() {
        Ok(moment) => moment,
        Err(_) => {
            text.parse::<DateTime>().context(FORMS)?.to_zoned(TimeZone::UTC).context(FORMS)?.timestamp()
        }
    };
    OffsetDateTime::from_unix_timestamp_nanos(moment.as_nanosecond()).context(FORMS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn durations_are_written_as_people_say_them() {
        let seconds = ["7d", "12h", "90s", "1h 30m", "0s"].map(|text| duration(text).expect(text).as_secs());
        assert_eq!(seconds, [604_800, 43_200, 90, 5_400, 0]);
        for wrong in ["7", "-1h", "a week", ""] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_moment_is_told_or_counted_back() {
        let noon = datetime!(2026-11-23 12:00 UTC);
        assert_eq!(moment("2026-11-23T12:00:00Z").expect("a moment"), noon);
        assert_eq!(moment("2026-11-23T21:00:00+09:00").expect("a moment"), noon);
        assert_eq!(moment("2026-11-23T12:00").expect("UTC"), noon);
        assert_eq!(moment("2026-11-23").expect("a date"), datetime!(2026-11-23 00:00 UTC));
        let before = OffsetDateTime::now_utc();
        let counted_back = moment("2h").expect("so long ago") + Duration::from_secs(7_200);
        assert!((before..=OffsetDateTime::now_utc()).contains(&counted_back));
        assert!(moment("yesterday").is_err());
    }
}

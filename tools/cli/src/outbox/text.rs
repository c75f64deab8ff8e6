//! What the tables share.

use comfy_table::{Table, presets};
use outflow_outbox::operator::{Skipped, SkippedBecause};
use std::fmt::Write;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Characters of an error in a table; `show` has all of it.
const ERROR_CHARS: usize = 60;

pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}

/// To the second: `2026-11-23T07:00:00Z`.
pub(crate) fn moment(at: OffsetDateTime) -> String {
    let at = at.replace_nanosecond(0).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

/// Two units at most: `3d 4h`, `12m 5s`, `1.4s`, `20ms`.
pub(super) fn milliseconds(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes, seconds) {
        (1.., ..) => format!("{days}d {hours}h"),
        (_, 1.., ..) => format!("{hours}h {minutes}m"),
        (_, _, 1.., _) => format!("{minutes}m {}s", seconds % 60),
        (.., 1..) => format!("{seconds}.{}s", ms % 1_000 / 100),
        _ => format!("{ms}ms"),
    }
}

/// With thousands apart: 1,234,567.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// "1 event", "2 events".
pub(super) fn events(number: u64) -> String {
    format!("{} event{}", count(number), if number == 1 { "" } else { "s" })
}

/// The beginning of an error, in one line.
pub(crate) fn shortened(error: Option<&str>) -> String {
    let line = error.unwrap_or_default().replace(['\n', '\r'], " ");
    match line.char_indices().nth(ERROR_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

pub(super) fn cause(cause: Option<&str>) -> &str {
    cause.unwrap_or("not tried yet")
}

/// A line for each event that was meant and not touched.
pub(super) fn skipped(skipped: &[Skipped]) -> String {
    let mut text = String::new();
    for Skipped { event, because } in skipped {
        let because = match because {
            SkippedBecause::NotParked => format!("it is not parked: see `outflow outbox show {event}`"),
            SkippedBecause::DoesNotFit => "it does not fit the other conditions".to_owned(),
            SkippedBecause::Waits { head_id } => format!("it waits behind {head_id}: name that one"),
            SkippedBecause::BreaksOrder { followed_by } => {
                format!(
                    "{} of its aggregate were written meanwhile and would follow without it",
                    count(*followed_by)
                )
            }
            SkippedBecause::HeadGone { with_it } => format!(
                "it went meanwhile, and {} of those behind it are discarded: see `outflow outbox show {event}`",
                count(*with_it)
            ),
        };
        write!(text, "\nskipped {event}: {because}").expect("a string takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_at_most_two_units() {
        let told = [0, 20, 1_449, 59_999, 61_000, 3_600_000, 90_061_000].map(milliseconds);
        assert_eq!(told, ["0ms", "20ms", "1.4s", "59.9s", "1m 1s", "1h 0m", "1d 1h"]);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([events(1), events(2)], ["1 event", "2 events"]);
    }

    #[test]
    fn an_error_takes_one_line_of_a_table() {
        assert_eq!(shortened(Some("a\nb")), "a b");
        assert_eq!(shortened(Some(&"é".repeat(61))), format!("{}…", "é".repeat(60)));
    }
}

//! How a relay works, and what a drain reports.

use crate::error::RelayError;
use serde::Serialize;
use std::time::Duration;

/// How a relay works. The defaults suit one shop on one server.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// Whose position it is, at most 64 ASCII characters; `outbox_status` shows that of "default".
    pub group: String,
    /// Rows read at once: 1 to 10,000. With more gaps open than that, as many as there are gaps, within `batch_bytes`.
    pub batch_rows: usize,
    /// Bytes after which a batch ends, whatever its rows: at least one row is read.
    pub batch_bytes: usize,
    /// Bytes of events that are read and not yet behind the position. The relay's memory is a small multiple of it.
    pub in_flight_bytes: usize,
    /// Longer than the publisher's timeout, else a slow broker loses us the lease; a crash costs at most this much.
    pub lease: Duration,
    /// How long an id is missing before it can be declared dead; see `burial`.
    pub gap_grace: Duration,
    /// Open gaps, in ranges, at which the position stops until one of them closes: 1 to 16,000.
    pub max_gaps: usize,
    pub retry: RetrySettings,
    /// Delivered rows older than this are deleted in small steps; None keeps them for ever.
    pub keep_delivered: Option<Duration>,
    /// Begin at the first row though other groups have a position in this database: everything is published once more.
    pub start_new_group: bool,
}

/// What becomes of an event that a broker refuses.
#[derive(Clone, Debug)]
pub struct RetrySettings {
    /// Attempts after which an event is dead, until an operator says otherwise: at least 1.
    pub max_attempts: u32,
    /// The pause after the first attempt; each further one is twice as long, and each is shortened by up to a half at
    /// random.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// Parked events tried in one pass. Fresh events go beside them and never wait for one.
    pub quota: usize,
    /// Parked aggregates at which the position stops: something is wrong with more than single events.
    pub max_parked: usize,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            group: "default".to_owned(),
            batch_rows: 1_000,
            batch_bytes: 4 << 20,
            in_flight_bytes: 16 << 20,
            lease: Duration::from_secs(15),
            gap_grace: Duration::from_secs(10),
            max_gaps: 16_000,
            retry: RetrySettings::default(),
            keep_delivered: Some(Duration::from_secs(7 * 24 * 3_600)),
            start_new_group: false,
        }
    }
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            max_attempts: 10,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(600),
            quota: 100,
            max_parked: 100_000,
        }
    }
}

impl RelaySettings {
    /// # Errors
    /// Names the setting that is out of its bounds.
    pub(crate) fn check(&self, publisher_timeout: Duration) -> Result<(), RelayError> {
        if self.lease <= publisher_timeout {
            return Err(RelayError::LeaseTooShort { lease: self.lease, publisher: publisher_timeout });
        }
        let group_fits =
            (1..=64).contains(&self.group.len()) && self.group.bytes().all(|b| b.is_ascii_graphic());
        let retry = &self.retry;
        let bounds: [(&'static str, bool, &'static str); 7] = [
            ("group", group_fits, "1 to 64 visible ASCII characters"),
            ("batch_rows", (1..=10_000).contains(&self.batch_rows), "1 to 10,000"),
            ("batch_bytes", self.batch_bytes >= 1, "at least 1"),
            ("in_flight_bytes", self.in_flight_bytes >= self.batch_bytes, "at least batch_bytes"),
            ("max_gaps", (1..=crate::log::MOST_RANGES).contains(&self.max_gaps), "1 to 16,000"),
            ("retry.max_attempts", retry.max_attempts >= 1, "at least 1"),
            ("retry.quota", (1..=1_000).contains(&retry.quota), "1 to 1,000"),
        ];
        match bounds.into_iter().find(|(_, fits, _)| !fits) {
            Some((setting, _, wanted)) => Err(RelayError::Setting { setting, wanted }),
            None => Ok(()),
        }
    }
}

impl RetrySettings {
    /// The pause after so many attempts, before chance shortens it.
    pub(crate) fn pause(&self, attempts: u32) -> Duration {
        let doubled = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first_pause.saturating_mul(doubled).min(self.longest_pause)
    }
}

/// What one drain did, and how the outbox stands after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Events confirmed by the publisher, those of parked aggregates included.
    pub published: u64,
    /// Attempts to deliver parked events.
    pub retried: u64,
    /// Events that were given up until an operator looks at them.
    pub dead_lettered: u64,
    /// Ids behind the position: an estimate, rolled back inserts count.
    pub backlog: u64,
    /// Milliseconds since the first event behind the position was written; 0 where there is none.
    pub oldest_age_ms: u64,
    /// Open gaps, in ranges.
    pub gaps: u64,
    /// Aggregates that stand still behind an event that could not be delivered, counted up to 10,000.
    pub parked: u64,
    /// Another relay holds the lease, so nothing was done here.
    pub lease_held_elsewhere: bool,
    /// An operator has paused the group, so nothing was done here, or no more.
    pub paused: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_its_bounds_is_named() {
        let settings = RelaySettings { batch_rows: 0, ..RelaySettings::default() };

        let error = settings.check(Duration::ZERO).unwrap_err();

        assert_eq!(error.to_string(), "setting batch_rows is out of bounds, wants 1 to 10,000");
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let retry = RetrySettings::default();
        let pauses = [1, 2, 3, 10, 11, 64].map(|attempts| retry.pause(attempts).as_secs());
        assert_eq!(pauses, [1, 2, 4, 512, 600, 600]);
    }
}

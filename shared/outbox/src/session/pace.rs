//! How long to wait from one read to the next: hardly at all while events come, longer where they pour or stay away. Pure.

use std::time::Duration;

/// Time between two reads while events come, and the longest while they don't. The timer rounds up to its next
/// millisecond, so the shortest is about one and a half. At half of this a steady 600 events/s cost about half of
/// Debezium's processor time, which is as much as it may (docs/benchmarks.md).
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(50);
/// Where events come faster than this many a millisecond, reads are rarer and bring more each: the broker's and the
/// database's work for a batch is what writers would pay for. Chosen with 16 writers that came to 9,300 rows/s on an earlier
/// setup of MySQL; what they come to as it is set up now is `relay.writers` (docs/benchmarks.md).
const EVENTS_A_MILLISECOND: u32 = 4;
const BUSY: Duration = Duration::from_millis(50);
/// Reads that find nothing before the pauses grow: chance alone leaves a few empty under load.
const EMPTY_READS: u32 = 10;

#[derive(Debug)]
pub(super) struct Pace {
    pause: Duration,
    empty_reads: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { pause: SHORTEST, empty_reads: 0 }
    }
}

impl Pace {
    /// A read has brought so many events. Returns how long after its beginning the next one begins.
    pub(super) fn read(&mut self, events: usize) -> Duration {
        if events > 0 {
            let events = u32::try_from(events).unwrap_or(u32::MAX);
            let pause = Duration::from_millis(1).saturating_mul(events) / EVENTS_A_MILLISECOND;
            *self = Self { pause: pause.clamp(SHORTEST, BUSY), empty_reads: 0 };
        } else {
            self.empty_reads += 1;
            if self.empty_reads > EMPTY_READS {
                self.pause = (self.pause * 2).min(LONGEST);
            }
        }
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads in ten seconds in which so many events come a second, by a clock that is only counted on.
    fn reads(events_a_second: u64) -> usize {
        let (mut pace, mut now, mut read_to, mut reads) = (Pace::default(), Duration::ZERO, 0, 0);
        while now < Duration::from_secs(10) {
            let written = u64::try_from(now.as_micros()).expect("seconds") * events_a_second / 1_000_000;
            let pause = pace.read(usize::try_from(written - read_to).expect("few"));
            // As the timer does.
            now += Duration::from_millis(u64::try_from(pause.as_micros().div_ceil(1_000)).expect("short"));
            (read_to, reads) = (written, reads + 1);
        }
        reads
    }

    #[test]
    fn reads_are_as_dense_as_the_timer_while_events_come_and_rare_where_they_pour_or_stay_away() {
        assert!((200..=230).contains(&reads(0)), "idle: {}", reads(0));
        assert!((8_000..=10_000).contains(&reads(600)), "a steady stream: {}", reads(600));
        assert!((200..=300).contains(&reads(9_000)), "a flood: {}", reads(9_000));
    }

    #[test]
    fn a_few_empty_reads_are_chance_and_the_first_event_ends_a_lull() {
        let mut pace = Pace::default();
        let first: Vec<_> = (0..EMPTY_READS).map(|_| pace.read(0)).collect();
        assert!(first.iter().all(|pause| *pause == SHORTEST), "{first:?}");
        for _ in 0..20 {
            pace.read(0);
        }
        assert_eq!(pace.read(0), LONGEST);
        assert_eq!(pace.read(1), SHORTEST);
    }
}

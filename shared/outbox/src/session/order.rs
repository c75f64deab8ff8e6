//! Whether versions appear in order: a check on whoever writes, which changes nothing about what is published.
//!
//! A violation is a version that is confirmed for the first time after a higher one of its aggregate, or after another
//! event with the same version. Repeats are none: what was confirmed and not moved over is read and published again, and
//! so is everything behind a position that went back. So what is remembered lives as long as the relay's process, and
//! forgets what a set-back makes untrue. What another process has published isn't known here.

use crate::{
    dispatch::{ByKey, Key},
    event::OutboxEvent,
};

#[derive(Debug, Default)]
pub(crate) struct Order {
    /// The newest version confirmed of the aggregates seen lately, and its row's id: between one and two times
    /// [`GENERATION`] of them.
    young: ByKey<(u64, u32)>,
    old: ByKey<(u64, u32)>,
    server_uuid: String,
    /// Where the group's position was when this process last saw it.
    position: u64,
    /// The highest id that was confirmed in this session.
    confirmed_to: u64,
    /// Up to this id a row may have been confirmed before, by a session that did not move over it.
    repeats_to: u64,
}

/// What the log says where there are violations, for who reads it instead of the metric.
pub const ORDER_VIOLATED: &str =
    "versions appeared behind higher ones: who writes without locking the row first?";

/// Each aggregate costs 32 bytes or so: 4 MiB in all.
const GENERATION: usize = 50_000;

impl Order {
    /// A session begins at this position. One below the last that was seen here, or another server: ids may have been
    /// given again, to other events, and versions too.
    pub(crate) fn begins(&mut self, server_uuid: &str, position: u64) {
        if self.server_uuid != server_uuid || position < self.position {
            *self = Self { server_uuid: server_uuid.to_owned(), ..Self::default() };
        }
        self.position = position;
    }

    /// An event was confirmed. True where it is a violation.
    pub(super) fn confirmed(&mut self, key: Key, event: &OutboxEvent) -> bool {
        let (id, version) = (event.id, event.aggregate_version);
        self.confirmed_to = self.confirmed_to.max(id);
        let before = self.young.get(&key).or_else(|| self.old.get(&key)).copied();
        let (newest, violates) = match before {
            Some((newest_id, newest)) if version <= newest => {
                ((newest_id, newest), id != newest_id && id > self.repeats_to)
            }
            _ => ((id, version), false),
        };
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, newest);
        violates
    }

    /// The position was moved.
    pub(super) fn moved(&mut self, position: u64) {
        self.position = self.position.max(position);
    }

    /// The session is over. `moved_all` where nothing that it read will be read again; an earlier one may have read further.
    pub(super) fn ends(&mut self, moved_all: bool) {
        let confirmed_to = std::mem::take(&mut self.confirmed_to);
        self.repeats_to = match moved_all {
            true if self.position >= self.repeats_to => 0,
            true => self.repeats_to,
            false => self.repeats_to.max(confirmed_to),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Keyring;
    use proptest::prelude::*;
    use time::OffsetDateTime;

    fn event(id: u64, aggregate: &str, version: u32) -> OutboxEvent {
        OutboxEvent {
            id,
            event_id: id.to_string(),
            aggregate_type: "Order".to_owned(),
            aggregate_id: aggregate.to_owned(),
            aggregate_version: version,
            event_type: "Changed".to_owned(),
            payload: "{}".to_owned(),
            headers: Vec::new(),
            created_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    impl Order {
        fn take(&mut self, id: u64, aggregate: &str, version: u32) -> bool {
            let key = Keyring::default().key("Order", aggregate);
            self.confirmed(key, &event(id, aggregate, version))
        }

        /// A session from this position that confirms these: how many are violations.
        fn session(&mut self, position: u64, confirms: &[(u64, u32)], moved_all: bool) -> usize {
            self.begins("server", position);
            let violations = confirms.iter().filter(|(id, version)| self.take(*id, "a", *version)).count();
            if moved_all {
                self.moved(confirms.iter().map(|(id, _)| *id).max().unwrap_or(0).max(position));
            }
            self.ends(moved_all);
            violations
        }
    }

    #[test]
    fn a_lower_or_the_same_version_of_another_row_is_a_violation_in_any_later_session() {
        let mut order = Order::default();
        assert_eq!(order.session(0, &[(1, 1), (3, 3)], true), 0);
        assert_eq!(order.session(3, &[(4, 2)], true), 1, "a row behind it");
        assert_eq!(order.session(4, &[(2, 1)], true), 1, "a row that has appeared in a gap");
        assert_eq!(order.session(4, &[(5, 3)], true), 1, "the same version twice");
        assert_eq!(order.session(5, &[(6, 4)], true), 0);
    }

    #[test]
    fn what_was_not_moved_over_may_come_again_and_only_that() {
        let mut order = Order::default();
        assert_eq!(order.session(0, &[(1, 1), (2, 2), (3, 3)], false), 0);
        assert_eq!(order.session(0, &[(1, 1), (2, 2)], false), 0, "and a second time");
        assert_eq!(order.session(1, &[(2, 2), (3, 3), (4, 2)], true), 1, "4 was never there");
        assert_eq!(order.session(4, &[(2, 2)], true), 1, "once all is moved over nothing may");
    }

    #[test]
    fn a_position_that_went_back_and_another_server_make_it_forget() {
        let mut order = Order::default();
        assert_eq!(order.session(0, &[(1, 1), (2, 2), (3, 3)], true), 0);
        assert_eq!(order.session(1, &[(2, 2), (3, 3)], true), 0, "published again");
        order.begins("another", 3);
        assert!(!order.take(4, "a", 2), "it may never have had version 3");
    }

    proptest! {
        /// Whoever locks first is never blamed, wherever sessions end and whatever they repeat.
        #[test]
        fn versions_that_rise_with_ids_are_no_violations(
            aggregates in proptest::collection::vec(0_u8..3, 1..40),
            sessions in proptest::collection::vec((1_usize..15, 0_usize..15, any::<bool>()), 1..20),
        ) {
            let mut versions = [0; 3];
            let rows: Vec<(u64, u8, u32)> = (1..).zip(aggregates).map(|(id, aggregate)| {
                versions[usize::from(aggregate)] += 1;
                (id, aggregate, versions[usize::from(aggregate)])
            }).collect();
            let (mut order, mut position) = (Order::default(), 0);
            for (confirms, moves_over, forgets) in sessions {
                order.begins("server", position as u64);
                let read = &rows[position.min(rows.len())..];
                let read = &read[..confirms.min(read.len())];
                for (id, aggregate, version) in read {
                    prop_assert!(!order.take(*id, &aggregate.to_string(), *version));
                }
                let moved = moves_over.min(read.len());
                position += moved;
                // The move may stand though nobody heard of it.
                if !forgets {
                    order.moved(position as u64);
                }
                order.ends(!forgets && moved == read.len());
            }
        }
    }
}

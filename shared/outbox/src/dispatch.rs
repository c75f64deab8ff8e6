//! Which event may be sent now: of each aggregate one at a time, the next only when the one before is settled.
//!
//! That is what keeps the order, whatever a broker refuses, repeats or loses, and however many relays believe to hold
//! the lease: a version is only ever sent after the one before it was confirmed. Pure; sending is `session`'s work.

use crate::event::OutboxEvent;
use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
    sync::LazyLock,
};

/// An aggregate, as 128 bits of two hashes with random keys: nobody can aim at a collision, and chance meets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(u128);

/// What is known of aggregates. Each event asks it several times, and a key needs no second hash.
pub(crate) type ByKey<T> = HashMap<Key, T, BuildHasherDefault<Half>>;

/// The hash of a key: half of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Half(u64);

impl Hasher for Half {
    fn write(&mut self, bytes: &[u8]) {
        let half = bytes.first_chunk().expect("a key has 16 bytes");
        self.0 = u64::from_ne_bytes(*half);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Makes keys. All keyrings of a process make the same ones: what is remembered of an aggregate outlives a session.
#[derive(Clone, Debug)]
pub(crate) struct Keyring(RandomState, RandomState);

impl Default for Keyring {
    fn default() -> Self {
        static OF_THE_PROCESS: LazyLock<Keyring> =
            LazyLock::new(|| Keyring(RandomState::new(), RandomState::new()));
        OF_THE_PROCESS.clone()
    }
}

impl Keyring {
    pub(crate) fn key(&self, aggregate_type: &str, aggregate_id: &str) -> Key {
        let half = |state: &RandomState| u128::from(state.hash_one((aggregate_type, aggregate_id)));
        Key(half(&self.0) << 64 | half(&self.1))
    }
}

/// An event on its way, and the step of the log it belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) step: u64,
    pub(crate) key: Key,
    pub(crate) event: OutboxEvent,
}

/// What is ready to be sent, and what waits for an earlier event of its aggregate.
#[derive(Debug, Default)]
pub(crate) struct Dispatch {
    /// One entry for each aggregate that has an event ready or on its way; behind it what follows.
    busy: ByKey<VecDeque<Task>>,
    ready: Vec<Task>,
}

impl Dispatch {
    pub(crate) fn add(&mut self, task: Task) {
        match self.busy.entry(task.key) {
            Entry::Occupied(mut entry) => entry.get_mut().push_back(task),
            Entry::Vacant(entry) => {
                entry.insert(VecDeque::new());
                self.ready.push(task);
            }
        }
    }

    /// Everything that may be sent now, each aggregate once.
    pub(crate) fn take_ready(&mut self) -> Vec<Task> {
        std::mem::take(&mut self.ready)
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The aggregate's event was settled: the next one, if any, is ready.
    pub(crate) fn settled(&mut self, key: Key) {
        if let Entry::Occupied(mut entry) = self.busy.entry(key) {
            match entry.get_mut().pop_front() {
                Some(next) => self.ready.push(next),
                None => drop(entry.remove()),
            }
        }
    }

    /// The event was not taken and goes out again.
    pub(crate) fn again(&mut self, task: Task) {
        self.ready.push(task);
    }

    /// The aggregate's event was refused: what followed it is handed back, and the aggregate is no longer busy.
    pub(crate) fn refused(&mut self, key: Key) -> VecDeque<Task> {
        self.busy.remove(&key).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, HashSet};
    use time::OffsetDateTime;

    fn task(keyring: &Keyring, step: u64, aggregate: &str, version: u32) -> Task {
        let event = OutboxEvent {
            id: step,
            event_id: format!("{aggregate}-{version}"),
            aggregate_type: "Order".to_owned(),
            aggregate_id: aggregate.to_owned(),
            aggregate_version: version,
            event_type: "Changed".to_owned(),
            payload: "{}".to_owned(),
            headers: Vec::new(),
            created_at: OffsetDateTime::UNIX_EPOCH,
        };
        Task { step, key: keyring.key("Order", aggregate), event }
    }

    #[test]
    fn what_follows_a_refused_event_is_handed_back_in_order() {
        let keyring = Keyring::default();
        let mut dispatch = Dispatch::default();
        for version in 1..=3 {
            dispatch.add(task(&keyring, 1, "a", version));
        }
        let tasks = dispatch.take_ready();

        let behind = dispatch.refused(tasks[0].key);

        assert_eq!(behind.iter().map(|task| task.event.aggregate_version).collect::<Vec<_>>(), [2, 3]);
        assert!(!dispatch.has_ready());
    }

    proptest! {
        /// Adds and settles in any interleaving; a third of the sends is not taken and goes out again.
        #[test]
        fn each_aggregate_has_one_event_on_its_way_and_all_of_them_go_out_in_order(
            aggregates in proptest::collection::vec(0_u8..5, 1..120),
            choices in proptest::collection::vec(any::<u8>(), 1..400),
            retries in proptest::collection::vec(any::<bool>(), 0..100),
        ) {
            let keyring = Keyring::default();
            let mut dispatch = Dispatch::default();
            let mut written: BTreeMap<u8, u32> = BTreeMap::new();
            let mut sent: BTreeMap<String, Vec<u32>> = BTreeMap::new();
            let mut on_their_way: Vec<Task> = Vec::new();
            let mut to_write = aggregates.iter();
            let mut choices = choices.iter().cycle();
            let mut retries = retries.iter();
            loop {
                let choice = *choices.next().expect("it cycles");
                if (choice % 3 == 0 || on_their_way.is_empty())
                    && let Some(aggregate) = to_write.next()
                {
                    let version = written.entry(*aggregate).or_default();
                    *version += 1;
                    dispatch.add(task(&keyring, 1, &aggregate.to_string(), *version));
                } else if !on_their_way.is_empty() {
                    let task = on_their_way.swap_remove(usize::from(choice) % on_their_way.len());
                    if retries.next().is_some_and(|retry| *retry) {
                        dispatch.again(task);
                    } else {
                        sent.entry(task.event.aggregate_id.clone()).or_default().push(task.event.aggregate_version);
                        dispatch.settled(task.key);
                    }
                }
                on_their_way.extend(dispatch.take_ready());
                let keys: HashSet<Key> = on_their_way.iter().map(|task| task.key).collect();
                prop_assert_eq!(keys.len(), on_their_way.len());
                if to_write.len() == 0 && on_their_way.is_empty() {
                    break;
                }
            }
            for (aggregate, last) in written {
                prop_assert_eq!(&sent[&aggregate.to_string()], &(1..=last).collect::<Vec<_>>());
            }
            prop_assert!(dispatch.busy.is_empty());
        }
    }
}

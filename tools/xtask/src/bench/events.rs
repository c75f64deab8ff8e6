//! The events of a benchmark: what a shop writes, each known again by its number.
//!
//! Everything about an event follows from its number, so nothing need be kept to check what arrives.

use anyhow::Context;
use sqlx::{MySql, MySqlPool, QueryBuilder};
use xtask::progress::Terminal;

/// Ten new orders, each with an Order and an Inventory event, and then one earlier order that is paid: two more.
const GROUP: u64 = 22;
const ORDERS_A_GROUP: u64 = 10;
/// Rows in one INSERT. A statement of this size costs MySQL and Debezium least for a row.
const ROWS_A_STATEMENT: u64 = 1_000;
/// Statements on their way at once.
const CONNECTIONS: u64 = 4;
/// The fewest groups between an order and its payment: a payment never lies among statements that run side by side with
/// the order's, where it could come first.
const PAID_AFTER_AT_LEAST: u64 = 2 * ROWS_A_STATEMENT * CONNECTIONS / GROUP;

/// Words of 16 hexadecimal digits in a large payload.
const LARGE_WORDS: u64 = 800_000 / 16;

/// The number of an event that only shows that a way is open. No counting event has it.
pub(super) const MARKER: u64 = 0xFFFF_FFFF_FFFF;

/// The events of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Events {
    /// Groups between an order and its payment.
    paid_after: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Order,
    Inventory,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    number: u64,
    kind: Kind,
    order: u64,
    version: u32,
    /// The event of the same aggregate that must have appeared before.
    pub(super) predecessor: Option<u64>,
}

impl Events {
    /// For a run of about `total` events: an order is paid after a tenth of them.
    pub(super) fn of(total: u64) -> Self {
        Self { paid_after: (total / GROUP / 10).max(PAID_AFTER_AT_LEAST) }
    }

    pub(super) fn get(self, number: u64) -> Event {
        let (group, place) = (number / GROUP, number % GROUP);
        let kind = if place.is_multiple_of(2) { Kind::Order } else { Kind::Inventory };
        if place < 2 * ORDERS_A_GROUP {
            let order = ORDERS_A_GROUP * group + place / 2;
            return Event { number, kind, order, version: 1, predecessor: None };
        }
        match group.checked_sub(self.paid_after) {
            Some(paid) => {
                let predecessor = Some(GROUP * paid + place % 2);
                Event { number, kind, order: ORDERS_A_GROUP * paid, version: 2, predecessor }
            }
            // Nothing is old enough yet: one more new order, numbered where no other is.
            None => Event { number, kind, order: MARKER - group, version: 1, predecessor: None },
        }
    }

    /// Writes events `0..total`, in order of their numbers.
    pub(super) async fn write_all(
        self,
        pool: &MySqlPool,
        total: u64,
        progress: &Terminal,
    ) -> anyhow::Result<()> {
        let bar = progress.bar("writing events", total);
        for first in (0..total).step_by(usize::try_from(ROWS_A_STATEMENT * CONNECTIONS)?) {
            // Side by side, since the server has more to do with a statement than we have; then the next few, so that an
            // order lies before its payment.
            let last = (first + ROWS_A_STATEMENT * CONNECTIONS).min(total);
            let mut statements = tokio::task::JoinSet::new();
            for from in (first..last).step_by(usize::try_from(ROWS_A_STATEMENT)?) {
                let pool = pool.clone();
                let numbers = from..(from + ROWS_A_STATEMENT).min(last);
                statements.spawn(async move { self.insert(&pool, numbers).await });
            }
            while let Some(inserted) = statements.join_next().await {
                inserted.context("an inserting task ended")??;
            }
            bar.set_position(last);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Writes these events in one statement, which is one transaction.
    pub(super) async fn insert(
        self,
        pool: &MySqlPool,
        numbers: impl IntoIterator<Item = u64>,
    ) -> anyhow::Result<()> {
        self.insert_with(pool, numbers, Event::payload).await
    }

    /// Writes an event of 800 kB, which lz4 makes little smaller.
    pub(super) async fn insert_large(self, pool: &MySqlPool, number: u64) -> anyhow::Result<()> {
        self.insert_with(pool, [number], Event::large_payload).await
    }

    async fn insert_with(
        self,
        pool: &MySqlPool,
        numbers: impl IntoIterator<Item = u64>,
        payload: fn(Event) -> String,
    ) -> anyhow::Result<()> {
        let mut insert = QueryBuilder::<MySql>::new(
            "INSERT INTO outbox (event_id, aggregate_id, aggregate_type, event_type, aggregate_version, payload, headers) ",
        );
        insert.push_values(numbers.into_iter().map(|number| self.get(number)), |mut row, event| {
            row.push_bind(event.id())
                .push_bind(event.aggregate_id())
                .push_bind(event.aggregate_type())
                .push_bind(event.event_type())
                .push_bind(event.version)
                .push_bind(payload(event))
                .push_bind(event.headers());
        });
        insert.build().execute(pool).await.context("inserting events into the outbox")?;
        Ok(())
    }
}

impl Event {
    /// A UUID that looks like any other, with the number in its last 12 digits.
    pub(super) fn id(self) -> String {
        uuid(mixed(self.number), self.number)
    }

    pub(super) fn aggregate_id(self) -> String {
        uuid(mixed(!self.order), self.order)
    }

    pub(super) fn aggregate_type(self) -> &'static str {
        match self.kind {
            Kind::Order => "Order",
            Kind::Inventory => "Inventory",
        }
    }

    fn event_type(self) -> &'static str {
        match (self.kind, self.version) {
            (Kind::Order, 1) => "OrderCreated",
            (Kind::Order, _) => "OrderPaid",
            (Kind::Inventory, 1) => "StockReserved",
            (Kind::Inventory, _) => "StockReleased",
        }
    }

    /// About 420 bytes as MySQL tells it: a snapshot of the order, or of what is held for it.
    fn payload(self) -> String {
        let Self { kind, order, version, .. } = self;
        let seed = mixed(order ^ u64::from(version));
        let [quantity, product, price, user] =
            [seed % 5 + 1, seed >> 8 & 255, seed >> 16 & 4095, seed >> 32 & 8191];
        let cents = |cents: u64| format!("{}.{:02}", cents / 100, cents % 100);
        let [unit, line, total] =
            [price + 100, (price + 100) * quantity, (price + 100) * quantity + 1_990].map(cents);
        let [minute, second, milli] = [seed >> 40 & 31, seed >> 45 & 31, seed >> 50 & 511].map(|n| n + 10);
        let (status, about) = match kind {
            Kind::Order if version == 1 => ("PENDING", "totalAmount"),
            Kind::Order => ("PAID", "totalAmount"),
            Kind::Inventory if version == 1 => ("RESERVED", "stockValue"),
            Kind::Inventory => ("RELEASED", "stockValue"),
        };
        format!(
            r#"{{"orderId": "{}", "userId": "u-{user:04}", "status": "{status}", "{about}": "{total}", "itemCount": 2, "quantity": {}, "items": [{{"productId": "p-{product:03}", "name": "Product of the season", "quantity": {quantity}, "unitPrice": "{unit}", "lineTotal": "{line}"}}, {{"productId": "p-901", "name": "Saucer", "quantity": 1, "unitPrice": "19.90", "lineTotal": "19.90"}}], "createdAt": "2026-11-23T07:{minute}:{second}.{milli:03}Z"}}"#,
            self.aggregate_id(),
            quantity + 1,
        )
    }

    fn large_payload(self) -> String {
        let attachment: String =
            (0..LARGE_WORDS).map(|word| format!("{:016x}", mixed(self.number ^ word << 32))).collect();
        format!(r#"{{"orderId": "{}", "attachment": "{attachment}"}}"#, self.aggregate_id())
    }

    fn headers(self) -> String {
        let trace = mixed(self.order.rotate_left(17));
        format!(
            r#"{{"requestId": "{}", "traceparent": "00-{trace:016x}{:016x}-{:016x}-01"}}"#,
            uuid(trace, self.order),
            mixed(trace),
            mixed(self.number.rotate_left(23))
        )
    }
}

/// The number in an event's id.
pub(super) fn number_of(event_id: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(event_id.get(24..36)?).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

fn uuid(random: u64, number: u64) -> String {
    let [a, b, c, d] = [random >> 32, random >> 16 & 0xFFFF, random & 0xFFF, random >> 12 & 0x3FFF | 0x8000];
    format!("{a:08x}-{b:04x}-7{c:03x}-{d:04x}-{number:012x}")
}

/// SplitMix64's finisher: nearby numbers give unrelated ones.
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Writes an event that no check counts.
pub(super) async fn write_marker(pool: &MySqlPool) -> anyhow::Result<()> {
    Events { paid_after: u64::MAX }.insert(pool, [MARKER]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn an_event_is_known_again_by_its_id() {
        for number in [0, 1, 21, 599_999, 10_000_000] {
            let id = Events::of(1).get(number).id();
            assert_eq!(number_of(id.as_bytes()), Some(number), "{id}");
            assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 7, "{id}");
        }
        assert_eq!(number_of(b"something else"), None);
    }

    #[test]
    fn versions_of_an_aggregate_follow_each_other_and_name_their_predecessor() {
        let events = Events { paid_after: 100 };
        let mut newest: HashMap<(String, &str), (u32, u64)> = HashMap::new();
        let mut second_versions = 0;
        for number in 0..22_000 {
            let event = events.get(number);
            let before =
                newest.insert((event.aggregate_id(), event.aggregate_type()), (event.version, number));
            assert_eq!(before.map(|(_, number)| number), event.predecessor);
            assert_eq!(before.map_or(1, |(version, _)| version + 1), event.version);
            second_versions += u32::from(event.version == 2);
        }
        assert_eq!(second_versions, 2 * 900, "one group in ten is too early to be paid");
    }

    #[test]
    fn a_payload_is_json_of_420_bytes_give_or_take_20() {
        for number in (0..50_000).step_by(997) {
            let event = Events::of(30_000).get(number);
            let payload = event.payload();
            serde_json::from_str::<serde_json::Value>(&payload).unwrap();
            serde_json::from_str::<serde_json::Value>(&event.headers()).unwrap();
            assert!((400..=440).contains(&payload.len()), "{} bytes: {payload}", payload.len());
        }
    }
}

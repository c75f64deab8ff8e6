//! Order by order: two streams, both ascending by id, walked side by side.

use super::{
    SHOWN,
    truth::{TrueOrder, Truth},
};
use outflow_analytics::{OrderCursor, StoredOrder};
use serde::Serialize;
use std::{cmp::Ordering, fmt};
use uuid::Uuid;

/// The lower bits of a row's version are its generation, the rest is the order's own version.
const GENERATION_BITS: u32 = 24;

/// A stream of orders, ascending by id.
pub(super) trait Orders<T> {
    async fn next(&mut self) -> anyhow::Result<Option<T>>;
}

impl Orders<TrueOrder> for Truth<'_> {
    async fn next(&mut self) -> anyhow::Result<Option<TrueOrder>> {
        Truth::next(self).await
    }
}

impl Orders<StoredOrder> for OrderCursor {
    async fn next(&mut self) -> anyhow::Result<Option<StoredOrder>> {
        Ok(OrderCursor::next(self).await?)
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OrderReport {
    pub(super) checked: u64,
    pub(super) wrong: u64,
    pub(super) missing: u64,
    pub(super) extra: u64,
    pub(super) first: Vec<OrderDifference>,
}

/// Both sides of an order that differs; one is absent where the order is missing or extra.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct OrderDifference {
    pub(super) order_id: Uuid,
    pub(super) mysql: Option<Side>,
    pub(super) clickhouse: Option<Side>,
}

/// What is compared of an order. Money in decimals, time in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Side {
    status: String,
    total_amount: String,
    created_at: String,
    version: u64,
}

impl From<&TrueOrder> for Side {
    fn from(order: &TrueOrder) -> Self {
        Self {
            status: order.status.clone(),
            total_amount: order.total.to_string(),
            created_at: order.created.to_string(),
            version: order.version,
        }
    }
}

impl From<&StoredOrder> for Side {
    fn from(order: &StoredOrder) -> Self {
        Self {
            status: order.status.clone(),
            total_amount: order.total_amount.to_string(),
            created_at: order.order_date.to_string(),
            version: order.version >> GENERATION_BITS,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} created {} version {}",
            self.status, self.total_amount, self.created_at, self.version
        )
    }
}

impl fmt::Display for OrderDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |side: &Option<Side>| side.as_ref().map_or("none".to_owned(), ToString::to_string);
        write!(
            f,
            "order {}: mysql {}, clickhouse {}",
            self.order_id,
            side(&self.mysql),
            side(&self.clickhouse)
        )
    }
}

/// Walks both streams; every true order is also handed to `each`.
pub(super) async fn compare(
    truth: &mut impl Orders<TrueOrder>,
    stored: &mut impl Orders<StoredOrder>,
    mut each: impl FnMut(&TrueOrder),
) -> anyhow::Result<OrderReport> {
    let mut report = OrderReport::default();
    let (mut left, mut right) = (truth.next().await?, stored.next().await?);
    loop {
        let order = match (&left, &right) {
            (None, None) => return Ok(report),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            // A UUID's bytes and its text sort alike, and both servers sort by the text.
            (Some(left), Some(right)) => left.id.cmp(&right.order_id),
        };
        if let (Some(left), true) = (&left, order.is_le()) {
            each(left);
        }
        report.count(left.as_ref().filter(|_| order.is_le()), right.as_ref().filter(|_| order.is_ge()));
        if order.is_le() {
            left = truth.next().await?;
        }
        if order.is_ge() {
            right = stored.next().await?;
        }
    }
}

impl OrderReport {
    fn count(&mut self, left: Option<&TrueOrder>, right: Option<&StoredOrder>) {
        self.checked += 1;
        let id = match (left, right) {
            (Some(left), Some(right)) => {
                let same = left.status == right.status
                    && left.total == right.total_amount
                    && left.created == right.order_date
                    && left.version == right.version >> GENERATION_BITS;
                if same {
                    return;
                }
                self.wrong += 1;
                left.id
            }
            (Some(left), None) => {
                self.missing += 1;
                left.id
            }
            (None, Some(right)) => {
                self.extra += 1;
                right.order_id
            }
            (None, None) => return,
        };
        if self.first.len() < SHOWN {
            self.first.push(OrderDifference {
                order_id: id,
                mysql: left.map(Side::from),
                clickhouse: right.map(Side::from),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outflow_analytics::{Amount, Timestamp};
    use std::collections::VecDeque;

    impl<T> Orders<T> for VecDeque<T> {
        async fn next(&mut self) -> anyhow::Result<Option<T>> {
            Ok(self.pop_front())
        }
    }

    fn truth(id: u128) -> TrueOrder {
        TrueOrder {
            id: Uuid::from_u128(id),
            version: 2,
            status: "PENDING".to_owned(),
            total: Amount::from_cents(5997),
            created: Timestamp::from_millis(1_795_000_000_123),
        }
    }

    fn stored(id: u128) -> StoredOrder {
        StoredOrder {
            order_id: Uuid::from_u128(id),
            order_date: Timestamp::from_millis(1_795_000_000_123),
            status: "PENDING".to_owned(),
            total_amount: Amount::from_cents(5997),
            version: 2 << GENERATION_BITS | 7,
        }
    }

    async fn run(truth: Vec<TrueOrder>, stored: Vec<StoredOrder>) -> (OrderReport, usize) {
        let mut seen = 0;
        let report = compare(&mut VecDeque::from(truth), &mut VecDeque::from(stored), |_| seen += 1).await;
        (report.expect("nothing fails here"), seen)
    }

    #[tokio::test]
    async fn equal_orders_are_no_difference_whatever_their_generation() {
        let (report, seen) = run((0..50).map(truth).collect(), (0..50).map(stored).collect()).await;

        assert_eq!(report, OrderReport { checked: 50, ..OrderReport::default() });
        assert_eq!(seen, 50);
    }

    #[tokio::test]
    async fn missing_and_extra_orders_are_told_apart_wherever_they_stand() {
        let (report, seen) =
            run([1, 2, 4, 7].map(truth).to_vec(), [0, 2, 3, 4, 9].map(stored).to_vec()).await;

        assert_eq!((report.checked, report.wrong, report.missing, report.extra), (7, 0, 2, 3));
        let ids: Vec<_> = report.first.iter().map(|d| (d.order_id.as_u128(), d.mysql.is_some())).collect();
        assert_eq!(ids, [(0, false), (1, true), (3, false), (7, true), (9, false)]);
        assert_eq!(seen, 4);
    }

    #[tokio::test]
    async fn each_property_that_differs_makes_an_order_wrong() {
        let mut changed = [1, 2, 3, 4, 5].map(stored).to_vec();
        changed[0].status = "COMPLETED".to_owned();
        changed[1].total_amount = Amount::from_cents(5998);
        changed[2].order_date = Timestamp::from_millis(1_795_003_600_123);
        changed[3].version = 1 << GENERATION_BITS;

        let (report, _) = run([1, 2, 3, 4, 5].map(truth).to_vec(), changed).await;

        assert_eq!((report.checked, report.wrong, report.missing, report.extra), (5, 4, 0, 0));
        expect_test::expect![[
            "order 00000000-0000-0000-0000-000000000002: mysql PENDING 59.97 created 2026-11-18 11:06:40.123 version 2, \
             clickhouse PENDING 59.98 created 2026-11-18 11:06:40.123 version 2"
        ]]
        .assert_eq(&report.first[1].to_string());
    }

    #[tokio::test]
    async fn only_the_first_differences_are_kept() {
        let (report, _) = run((0..1000).map(truth).collect(), Vec::new()).await;

        assert_eq!((report.missing, report.first.len()), (1000, SHOWN));
    }
}

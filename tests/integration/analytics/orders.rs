//! Made-up orders and all that happens to them: the truth that figures are held against.

use super::{DAY, DAY_MS, HOUR_MS};
use outflow_analytics::{Amount, CellFigures, Sum, Timestamp};
use outflow_tests::OrderRow;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Numbers that are the same in every run (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    pub(super) fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).expect("it is below an index")
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}

/// Orders and all that happened to them, with the shop's clock as its offset from UTC.
pub(super) struct Shop {
    pub(super) random: Random,
    offset_ms: fn(i64) -> i64,
    /// The newest version of each order, by id.
    newest: BTreeMap<Uuid, OrderRow>,
}

impl Shop {
    pub(super) fn new(offset_ms: fn(i64) -> i64) -> Self {
        Self { random: Random(20_261_123), offset_ms, newest: BTreeMap::new() }
    }

    pub(super) fn place(&mut self, created: i64) -> OrderRow {
        let cents = i64::try_from(1 + self.random.below(99_999)).expect("it is small");
        let mut row = OrderRow::new(Timestamp::from_millis(created), Amount::from_cents(cents));
        row.order_id =
            Uuid::from_u128((u128::from(self.random.below(u64::MAX)) << 64) | self.newest.len() as u128);
        self.newest.insert(row.order_id, row.clone());
        row
    }

    /// The order's next version.
    pub(super) fn change(&mut self, id: Uuid, change: impl FnOnce(&mut OrderRow)) -> OrderRow {
        let row = self.newest.get_mut(&id).expect("the order is known");
        row.version += 1 << 24;
        change(row);
        row.clone()
    }

    pub(super) fn close(&mut self, id: Uuid) -> OrderRow {
        let status = if self.random.below(4) == 0 { "CANCELLED" } else { "COMPLETED" };
        self.change(id, |row| status.clone_into(&mut row.status))
    }

    pub(super) fn ids(&self) -> Vec<Uuid> {
        self.newest.keys().copied().collect()
    }

    pub(super) fn counted(&self) -> impl Iterator<Item = &OrderRow> {
        self.newest.values().filter(|row| row.is_deleted == 0 && row.is_canary == 0)
    }

    /// By hour and status, ascending.
    pub(super) fn cells(&self) -> Vec<CellFigures> {
        let mut cells: BTreeMap<(i64, &str), (u64, Sum)> = BTreeMap::new();
        for row in self.counted() {
            let at = row.order_date.millis();
            let offset = (self.offset_ms)(at);
            let hour = (at + offset).div_euclid(HOUR_MS) * HOUR_MS - offset;
            let cell = cells.entry((hour / 1000, &row.status)).or_default();
            cell.0 += 1;
            cell.1 += row.total_amount;
        }
        let figures = cells.into_iter().map(|((hour, status), (orders, revenue))| CellFigures {
            hour: u32::try_from(hour).expect("it is after 1970"),
            status: status.to_owned(),
            orders,
            revenue,
        });
        figures.collect()
    }

    /// Orders that aren't cancelled and their cents, by local day.
    pub(super) fn days(&self) -> BTreeMap<i64, (u64, i128)> {
        let mut days: BTreeMap<i64, (u64, i128)> = BTreeMap::new();
        for row in self.counted() {
            let at = row.order_date.millis();
            let day = days.entry((at + (self.offset_ms)(at)).div_euclid(DAY_MS)).or_default();
            if row.status != "CANCELLED" {
                day.0 += 1;
                day.1 += i128::from(row.total_amount.cents());
            }
        }
        days
    }

    /// A day of 2,000 orders and 3,981 events.
    pub(super) fn a_day_of_orders(&mut self) -> Vec<OrderRow> {
        let mut events: Vec<_> = (0..2_000).map(|n| self.place(DAY + n * DAY_MS / 2_000)).collect();
        let ids: Vec<Uuid> = events.iter().map(|row| row.order_id).take(1_981).collect();
        events.extend(ids.into_iter().map(|id| self.close(id)));
        events
    }
}

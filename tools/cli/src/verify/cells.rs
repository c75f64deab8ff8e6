//! Cell by cell: MySQL's orders added up by hour and status, hour and day, against the table and the served views.

use super::{SHOWN, clock::ShopClock, truth::TrueOrder};
use outflow_analytics::{
    Amount, CellFigures, DayFigures, HourFigures, Reader, Source, Sum, TimeRange, Timestamp,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

const HOUR_S: i64 = 3_600;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CellReport {
    pub(super) checked: u64,
    pub(super) wrong: u64,
    pub(super) first: Vec<CellDifference>,
}

/// Both sides of a cell that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct CellDifference {
    /// The table or view.
    pub(super) place: &'static str,
    /// Hour (UTC, its start) and status, hour, or day.
    pub(super) cell: String,
    pub(super) mysql: Option<String>,
    pub(super) clickhouse: Option<String>,
}

impl fmt::Display for CellDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "none".to_owned());
        write!(
            f,
            "{} {}: mysql {}, clickhouse {}",
            self.place,
            self.cell,
            side(&self.mysql),
            side(&self.clickhouse)
        )
    }
}

/// Orders and revenue of one status in one hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    orders: u64,
    revenue: Sum,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} orders {}", self.orders, self.revenue)
    }
}

/// What the hourly and daily views tell of one hour or day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sales {
    order_count: u64,
    total_revenue: Sum,
    average: Option<Sum>,
    placed: u64,
    completed: u64,
    cancelled: u64,
    completed_revenue: Sum,
}

impl Sales {
    fn add(&mut self, status: &str, cell: Cell) {
        self.placed += cell.orders;
        if status == "COMPLETED" {
            self.completed += cell.orders;
            self.completed_revenue += cell.revenue;
        }
        if status == "CANCELLED" {
            self.cancelled += cell.orders;
        } else {
            self.order_count += cell.orders;
            self.total_revenue += cell.revenue;
        }
        self.average = average(self.total_revenue, self.order_count);
    }
}

/// To the cent, half up (away from zero); None of no orders.
fn average(revenue: Sum, orders: u64) -> Option<Sum> {
    let (cents, orders) = (revenue.cents(), i128::from(orders));
    (orders > 0).then(|| Sum::from_cents((2 * cents + cents.signum() * orders) / (2 * orders)))
}

impl fmt::Display for Sales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let average = self.average.map_or("none".to_owned(), |average| average.to_string());
        write!(
            f,
            "{} orders {} average {average}, {} placed, {} completed {}, {} cancelled",
            self.order_count,
            self.total_revenue,
            self.placed,
            self.completed,
            self.completed_revenue,
            self.cancelled
        )
    }
}

/// MySQL's orders, added up. Grows with the hours of the range, not with its orders.
#[derive(Debug)]
pub(super) struct Tally {
    clock: ShopClock,
    /// Whole hours of the range, seconds since the epoch: from (inclusive), to (exclusive).
    hours: (i64, i64),
    /// Whole days of the range, days since 1970-01-01: from (inclusive), to (exclusive).
    days: (i64, i64),
    /// By hour and status; a day may be whole where its hours are, so days are added up by themselves.
    by_hour: BTreeMap<(i64, String), Cell>,
    by_day: BTreeMap<(i64, String), Cell>,
}

impl Tally {
    /// Hours and days that the range cuts are left out: the views tell them whole.
    pub(super) fn new(range: TimeRange, clock: ShopClock) -> Self {
        let before = Timestamp::from_millis(range.from.millis() - 1);
        let cut_hour = clock.hour(before) == clock.hour(range.from);
        let cut_day = clock.day(before) == clock.day(range.from);
        Self {
            hours: (clock.hour(range.from) + if cut_hour { HOUR_S } else { 0 }, clock.hour(range.to)),
            days: (clock.day(range.from) + i64::from(cut_day), clock.day(range.to)),
            by_hour: BTreeMap::new(),
            by_day: BTreeMap::new(),
            clock,
        }
    }

    pub(super) fn add(&mut self, order: &TrueOrder) {
        let (hour, day) = (self.clock.hour(order.created), self.clock.day(order.created));
        if (self.hours.0..self.hours.1).contains(&hour) {
            add_to(&mut self.by_hour, hour, &order.status, order.total);
        }
        if (self.days.0..self.days.1).contains(&day) {
            add_to(&mut self.by_day, day, &order.status, order.total);
        }
    }

    /// Reads every path to the figures and compares.
    pub(super) async fn compare(self, reader: &Reader) -> anyhow::Result<CellReport> {
        let hours = TimeRange { from: millis(self.hours.0), to: millis(self.hours.1) };
        let days = (days_since_1970(self.days.0), days_since_1970(self.days.1));
        let table = reader.cells(Source::Table, hours).await?;
        let served = reader.cells(Source::Served, hours).await?;
        let by_hour = reader.hours(hours).await?;
        let by_day = reader.days(days.0, days.1).await?;

        let mut report = CellReport::default();
        let name = |(hour, status): &(i64, String)| format!("{} {status}", millis(*hour));
        report.hold("orders_analytics", &self.by_hour, &cells(table), name);
        report.hold("hourly_sales_by_status", &self.by_hour, &cells(served), name);
        let hourly = by_hour.into_iter().map(|row| (i64::from(row.hour), hour_sales(&row))).collect();
        report.hold("hourly_sales_mv", &sales(&self.by_hour), &hourly, |hour| millis(*hour).to_string());
        let daily = by_day.into_iter().map(|row| (i64::from(row.day), day_sales(&row))).collect();
        report.hold("daily_sales_mv", &sales(&self.by_day), &daily, |day| date(*day));
        Ok(report)
    }
}

impl CellReport {
    /// Compares every cell that either side has.
    fn hold<K: Ord, V: PartialEq + ToString>(
        &mut self,
        place: &'static str,
        truth: &BTreeMap<K, V>,
        found: &BTreeMap<K, V>,
        name: impl Fn(&K) -> String,
    ) {
        let keys: BTreeSet<&K> = truth.keys().chain(found.keys()).collect();
        for key in keys {
            self.checked += 1;
            let (left, right) = (truth.get(key), found.get(key));
            if left == right {
                continue;
            }
            self.wrong += 1;
            if self.first.len() < SHOWN {
                let (mysql, clickhouse) = (left.map(V::to_string), right.map(V::to_string));
                self.first.push(CellDifference { place, cell: name(key), mysql, clickhouse });
            }
        }
    }
}

fn add_to(cells: &mut BTreeMap<(i64, String), Cell>, at: i64, status: &str, total: Amount) {
    let cell = cells.entry((at, status.to_owned())).or_default();
    cell.orders += 1;
    cell.revenue += total;
}

fn sales(cells: &BTreeMap<(i64, String), Cell>) -> BTreeMap<i64, Sales> {
    let mut sales: BTreeMap<i64, Sales> = BTreeMap::new();
    for ((at, status), cell) in cells {
        sales.entry(*at).or_default().add(status, *cell);
    }
    sales
}

fn cells(rows: Vec<CellFigures>) -> BTreeMap<(i64, String), Cell> {
    rows.into_iter()
        .map(|row| ((i64::from(row.hour), row.status), Cell { orders: row.orders, revenue: row.revenue }))
        .collect()
}

fn hour_sales(row: &HourFigures) -> Sales {
    Sales {
        order_count: row.order_count,
        total_revenue: row.total_revenue,
        average: row.average,
        placed: row.placed,
        completed: row.completed,
        cancelled: row.cancelled,
        completed_revenue: row.completed_revenue,
    }
}

fn day_sales(row: &DayFigures) -> Sales {
    Sales {
        order_count: row.order_count,
        total_revenue: row.total_revenue,
        average: row.average,
        placed: row.placed,
        completed: row.completed,
        cancelled: row.cancelled,
        completed_revenue: row.completed_revenue,
    }
}

fn millis(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn days_since_1970(day: i64) -> u16 {
    u16::try_from(day).unwrap_or(if day < 0 { 0 } else { u16::MAX })
}

fn date(day: i64) -> String {
    let text = millis(day * 24 * HOUR_S).to_string();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn order(created: &str, status: &str, cents: i64) -> TrueOrder {
        TrueOrder {
            id: Uuid::nil(),
            version: 1,
            status: status.to_owned(),
            total: Amount::from_cents(cents),
            created: created.parse().expect(created),
        }
    }

    fn tally(zone: &str, from: &str, to: &str) -> Tally {
        let range = TimeRange { from: from.parse().expect(from), to: to.parse().expect(to) };
        Tally::new(range, ShopClock::new(zone).expect(zone))
    }

    #[test]
    fn averages_are_rounded_to_the_cent_half_up() {
        let of = |cents, orders| average(Sum::from_cents(cents), orders).map(Sum::cents);
        assert_eq!(of(0, 0), None);
        assert_eq!(of(100, 3), Some(33));
        assert_eq!(of(200, 3), Some(67));
        assert_eq!(of(5, 2), Some(3));
        assert_eq!(of(-5, 2), Some(-3));
    }

    #[test]
    fn a_cancelled_order_was_placed_and_earns_nothing() {
        let mut tally = tally("UTC", "2026-11-01 00:00:00.000", "2026-12-01 00:00:00.000");
        for (status, cents) in [("PENDING", 1000), ("COMPLETED", 500), ("CANCELLED", 9999)] {
            tally.add(&order("2026-11-23 07:10:00.000", status, cents));
        }

        let day = sales(&tally.by_day).into_values().next().expect("one day");

        assert_eq!(day.to_string(), "2 orders 15.00 average 7.50, 3 placed, 1 completed 5.00, 1 cancelled");
    }

    #[test]
    fn hours_and_days_that_the_range_cuts_are_left_out() {
        let mut tally = tally("UTC", "2026-11-22 10:30:00.000", "2026-11-24 09:30:00.000");
        for created in [
            "2026-11-22 10:45:00.000", // in neither
            "2026-11-22 11:00:00.000", // in an hour
            "2026-11-23 00:00:00.000", // in both
            "2026-11-24 08:59:59.999", // in an hour
            "2026-11-24 09:10:00.000", // in neither
        ] {
            tally.add(&order(created, "PENDING", 1));
        }

        assert_eq!((tally.by_hour.len(), tally.by_day.len()), (3, 1));
    }

    #[test]
    fn a_cell_that_only_one_side_has_is_wrong() {
        let mut report = CellReport::default();
        let cell = |orders| Cell { orders, revenue: Sum::from_cents(100) };
        let truth = BTreeMap::from([(1, cell(1)), (2, cell(2)), (3, cell(3))]);
        let found = BTreeMap::from([(2, cell(2)), (3, cell(4)), (4, cell(4))]);

        report.hold("place", &truth, &found, ToString::to_string);

        assert_eq!((report.checked, report.wrong), (4, 3));
        let lines: Vec<String> = report.first.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "place 1: mysql 1 orders 1.00, clickhouse none",
                "place 3: mysql 3 orders 1.00, clickhouse 4 orders 1.00",
                "place 4: mysql none, clickhouse 4 orders 1.00",
            ]
        );
    }
}

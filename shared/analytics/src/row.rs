//! The row of `orders_analytics`, as it travels in Kafka (JSON) and as it goes into ClickHouse (RowBinary).
//!
//! One struct for both, so that a column cannot be in one and not in the other.

use crate::values::{Amount, Timestamp};
use clickhouse::Row;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use uuid::Uuid;

/// Readers of JSON keep 64-bit numbers exact below this, and ClickHouse holds the column to it.
const VERSION_LIMIT: u64 = 1 << 63;
/// The table's constraint `order_date_in_range`, in milliseconds: from the year 2000 up to 2100.
const ORDER_DATES: Range<i64> = 946_684_800_000..4_102_444_800_000;

/// A full snapshot of an order at one version. Every field is a column, and every one must be in the JSON.
#[derive(Clone, Debug, PartialEq, Eq, Row, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrdersAnalyticsRow {
    #[serde(with = "clickhouse::serde::uuid")]
    pub order_id: Uuid,
    /// When the order was created. It never changes: it is where the order's versions meet.
    pub order_date: Timestamp,
    pub user_id: String,
    pub status: String,
    pub total_amount: Amount,
    /// Lines.
    pub item_count: u32,
    /// Pieces, over all lines.
    pub quantity: u32,
    pub order_band: String,
    /// Aggregate version << 24 | generation: the highest wins.
    pub version: u64,
    /// 1 is a tombstone.
    pub is_deleted: u8,
    #[serde(with = "clickhouse::serde::uuid")]
    pub event_id: Uuid,
    /// sha256 of the module that made the row, hex.
    pub transform_digest: String,
    pub occurred_at: Timestamp,
    pub relayed_at: Timestamp,
    pub transformed_at: Timestamp,
}

/// Why a record's value is no row. What is wrong stays wrong however often it is tried.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    #[error("the record has no value")]
    Empty,
    #[error("not a row of orders_analytics, at {path}")]
    Json { path: String, source: serde_json::Error },
    #[error("{field} is {value}, which orders_analytics cannot hold: {limit}")]
    Range { field: &'static str, value: String, limit: &'static str },
}

impl RowError {
    /// A short name for a dead letter's header.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Json { .. } => "row_json",
            Self::Range { .. } => "row_range",
        }
    }
}

impl OrdersAnalyticsRow {
    /// Reads a Kafka record's value.
    ///
    /// # Errors
    /// Names the field that is missing, unknown, of another type or outside its range.
    pub fn from_json(value: &[u8]) -> Result<Self, RowError> {
        if value.is_empty() {
            return Err(RowError::Empty);
        }
        let mut json = serde_json::Deserializer::from_slice(value);
        let row: Self = serde_path_to_error::deserialize(&mut json)
            .map_err(|error| RowError::Json { path: error.path().to_string(), source: error.into_inner() })?;
        json.end().map_err(|source| RowError::Json { path: "the end".to_owned(), source })?;
        row.check_ranges()?;
        Ok(row)
    }

    /// What the types let through and the table's constraints do not: caught here, one row costs nobody else a block.
    fn check_ranges(&self) -> Result<(), RowError> {
        let error =
            |field, value: &dyn ToString, limit| RowError::Range { field, value: value.to_string(), limit };
        if !ORDER_DATES.contains(&self.order_date.millis()) {
            return Err(error("order_date", &self.order_date, "from 2000 up to 2100"));
        }
        if self.version >= VERSION_LIMIT {
            return Err(error("version", &self.version, "below 2^63"));
        }
        if self.is_deleted > 1 {
            return Err(error("is_deleted", &self.is_deleted, "0 or 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use outflow_telemetry::chain;
    use serde_json::{Value, json};

    fn example() -> Value {
        json!({
            "order_id": "01932d1e-7b1c-7a10-8c44-6f0d9a3b2c01", "order_date": "2026-11-23 07:11:32.123",
            "user_id": "u-1", "status": "PENDING", "total_amount": "59.97", "item_count": 2, "quantity": 5,
            "order_band": "all", "version": 16777217u64, "is_deleted": 0,
            "event_id": "01932d1e-7b1c-7a10-8c44-6f0d9a3b2c02", "transform_digest": "ab12",
            "occurred_at": "2026-11-23 07:11:32.123", "relayed_at": "2026-11-23 07:11:35.001",
            "transformed_at": "2026-11-23 07:11:35.040"
        })
    }

    fn check(change: impl FnOnce(&mut Value), expected: Expect) {
        let mut value = example();
        change(&mut value);
        let error =
            OrdersAnalyticsRow::from_json(value.to_string().as_bytes()).expect_err("the row is wrong");
        expected.assert_eq(&chain(&error));
    }

    #[test]
    fn a_row_survives_json_unchanged() {
        let row = OrdersAnalyticsRow::from_json(example().to_string().as_bytes()).expect("the example fits");

        assert_eq!(row.total_amount.cents(), 5997);
        assert_eq!(serde_json::to_value(&row).expect("it is plain data"), example());
    }

    #[test]
    fn a_missing_field_is_named() {
        check(
            |row| drop(row.as_object_mut().expect("an object").remove("total_amount")),
            expect!["not a row of orders_analytics, at .: missing field `total_amount` at line 1 column 404"],
        );
    }

    #[test]
    fn an_unknown_field_is_named() {
        check(
            |row| row["colour"] = json!("red"),
            expect![
                "not a row of orders_analytics, at colour: unknown field `colour`, expected one of `order_id`, `order_date`, `user_id`, `status`, `total_amount`, `item_count`, `quantity`, `order_band`, `version`, `is_deleted`, `event_id`, `transform_digest`, `occurred_at`, `relayed_at`, `transformed_at` at line 1 column 9"
            ],
        );
    }

    #[test]
    fn money_as_a_number_is_refused() {
        check(
            |row| row["total_amount"] = json!(59.97),
            expect![
                "not a row of orders_analytics, at total_amount: invalid type: floating point `59.97`, expected a string at line 1 column 320"
            ],
        );
    }

    #[test]
    fn a_value_of_another_type_is_named_by_its_field() {
        check(
            |row| row["quantity"] = json!("5"),
            expect![[
                r#"not a row of orders_analytics, at quantity: invalid type: string "5", expected u32 at line 1 column 243"#
            ]],
        );
        check(
            |row| row["item_count"] = json!(4_294_967_296u64),
            expect![
                "not a row of orders_analytics, at item_count: invalid value: integer `4294967296`, expected u32 at line 1 column 89"
            ],
        );
        check(
            |row| row["order_id"] = json!("not-a-uuid"),
            expect![
                "not a row of orders_analytics, at order_id: invalid character: found `n` at 0 at line 1 column 202"
            ],
        );
        check(
            |row| row["occurred_at"] = json!(1_767_323_045_678u64),
            expect![
                "not a row of orders_analytics, at occurred_at: invalid type: integer `1767323045678`, expected a string at line 1 column 108"
            ],
        );
        check(
            |row| row["total_amount"] = json!("1.005"),
            expect![[
                r#"not a row of orders_analytics, at total_amount: "1.005" is not an amount: write digits, a point and at most two decimals, below 10^16 at line 1 column 322"#
            ]],
        );
    }

    #[test]
    fn a_value_that_the_table_cannot_hold_is_refused() {
        check(
            |row| row["version"] = json!(u64::MAX),
            expect!["version is 18446744073709551615, which orders_analytics cannot hold: below 2^63"],
        );
        check(
            |row| row["is_deleted"] = json!(2),
            expect!["is_deleted is 2, which orders_analytics cannot hold: 0 or 1"],
        );
        check(
            |row| row["order_date"] = json!("1999-12-31 23:59:59.999"),
            expect![
                "order_date is 1999-12-31 23:59:59.999, which orders_analytics cannot hold: from 2000 up to 2100"
            ],
        );
    }

    #[test]
    fn what_is_not_one_json_object_is_refused() {
        for text in ["", "[]", "null", "{}", "{", "not json"] {
            assert!(OrdersAnalyticsRow::from_json(text.as_bytes()).is_err(), "{text}");
        }
        let twice = format!("{0}{0}", example());
        assert!(OrdersAnalyticsRow::from_json(twice.as_bytes()).is_err());
    }

    #[test]
    fn the_range_of_order_dates_is_the_one_the_table_holds() {
        let at = |text: &str| text.parse::<Timestamp>().expect(text).millis();
        assert_eq!(ORDER_DATES, at("2000-01-01 00:00:00.000")..at("2100-01-01 00:00:00.000"));
    }
}

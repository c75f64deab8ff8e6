//! MySQL's orders as a stream, ascending by id. One statement, so one moment; no locks.

use anyhow::Context;
use futures_util::{StreamExt, stream::BoxStream};
use outflow_analytics::{Amount, TimeRange, Timestamp};
use rust_decimal::Decimal;
use sqlx::{MySqlPool, Row, mysql::MySqlRow};
use time::{OffsetDateTime, PrimitiveDateTime};
use uuid::Uuid;

/// An order as the shop knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TrueOrder {
    pub(super) id: Uuid,
    /// How many events the order has had.
    pub(super) version: u64,
    pub(super) status: String,
    pub(super) total: Amount,
    pub(super) created: Timestamp,
}

pub(super) struct Truth<'a>(BoxStream<'a, Result<MySqlRow, sqlx::Error>>);

impl<'a> Truth<'a> {
    /// Without a range MySQL walks its primary key.
    pub(super) fn open(pool: &'a MySqlPool, range: Option<TimeRange>) -> Self {
        let rows = match range {
            None => {
                sqlx::query("SELECT id, version, status, total_amount, created_at FROM orders ORDER BY id")
                    .fetch(pool)
            }
            Some(range) => sqlx::query(
                "SELECT id, version, status, total_amount, created_at FROM orders \
                 WHERE created_at >= ? AND created_at < ? ORDER BY id",
            )
            .bind(datetime(range.from))
            .bind(datetime(range.to))
            .fetch(pool),
        };
        Self(rows)
    }

    /// None at the end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<TrueOrder>> {
        let row = self.0.next().await.transpose().context("MySQL's orders could not be read")?;
        row.map(|row| read(&row)).transpose()
    }
}

fn read(row: &MySqlRow) -> anyhow::Result<TrueOrder> {
    let id: String = row.try_get("id")?;
    let total: Decimal = row.try_get("total_amount")?;
    let created: PrimitiveDateTime = row.try_get("created_at")?;
    Ok(TrueOrder {
        id: Uuid::parse_str(&id).with_context(|| format!("order {id}: its id is no UUID"))?,
        version: u64::from(row.try_get::<u32, _>("version")?),
        status: row.try_get("status")?,
        total: Amount::try_from(total).with_context(|| format!("order {id}: its total"))?,
        created: created.assume_utc().into(),
    })
}

fn datetime(at: Timestamp) -> PrimitiveDateTime {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.millis()) * 1_000_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    PrimitiveDateTime::new(at.date(), at.time())
}

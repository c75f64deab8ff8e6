//! Writing an order: price, stock, order, events, in one transaction.

use crate::{
    Store, catalogue,
    error::{Shortage, StoreError, met_another},
};
use outflow_domain::{Order, OrderId, OrderRequest, RequestedItem, event::Event};
use outflow_outbox::{AggregateTable, EventWriter, NewEvent, TraceParent, WriteError};
use sqlx::{MySql, MySqlConnection, QueryBuilder, Row, mysql::MySqlArguments, query::Query};
use std::{collections::HashMap, time::Duration};
use time::{OffsetDateTime, PrimitiveDateTime};
use tokio::time::Instant;
use uuid::Uuid;

/// An order, and the stock that is held for it: the order's row guards both.
const ORDERS: AggregateTable<2> =
    AggregateTable::new("orders", "id", [("Order", "version"), ("Inventory", "reservation_version")]);

/// Tries of a transaction that meets another one in a deadlock.
const TRIES: u32 = 5;
/// All tries of an order together, then its commit or its last roll-back: below the function's timeout of 15 s, so that a MySQL that hangs is
/// told to the caller instead of cutting him off.
const WRITE_LIMIT: Duration = Duration::from_secs(8);
const COMMIT_LIMIT: Duration = Duration::from_secs(4);
const ROLL_BACK_LIMIT: Duration = Duration::from_secs(2);

impl Store {
    /// Prices the order from the catalogue, reserves its stock, and writes it with `OrderCreated` and `StockReserved`.
    ///
    /// A deadlock with another order is tried again. The events go on with `trace`; `new_id` gives their ids.
    ///
    /// # Errors
    /// Unknown products and too little stock name their lines. After any error nothing is written, but for
    /// [`StoreError::OutcomeUnknown`].
    pub async fn create_order(
        &self,
        id: OrderId,
        request: &OrderRequest,
        now: OffsetDateTime,
        trace: &TraceParent,
        new_id: impl Fn() -> Uuid,
    ) -> Result<Order, StoreError> {
        let deadline = Instant::now() + WRITE_LIMIT;
        let new_event =
            |event: &Event| NewEvent::new(new_id(), event.event_type(), event.payload()).with_trace(trace);
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_create_order(id, request, now, &new_event, deadline).await {
                Err(error) if error.met_another_transaction() && tries < TRIES => {
                    tracing::warn!(%error, order_id = %id, tries, "order met another transaction, trying again");
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_create_order(
        &self,
        id: OrderId,
        request: &OrderRequest,
        now: OffsetDateTime,
        new_event: &impl Fn(&Event) -> NewEvent,
        deadline: Instant,
    ) -> Result<Order, StoreError> {
        let begin = async { self.pool.begin().await.map_err(StoreError::Connect) };
        let mut outbox = EventWriter::new(in_time(deadline, begin).await?);
        match in_time(deadline, write_order(&mut outbox, id, request, now, new_event)).await {
            Ok(order) => commit(outbox, id).await.map(|()| order),
            Err(error) => {
                roll_back(outbox).await;
                Err(error)
            }
        }
    }
}

async fn in_time<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let outcome = tokio::time::timeout_at(deadline, work).await;
    outcome.unwrap_or(Err(StoreError::OutOfTime { limit: WRITE_LIMIT }))
}

/// Everything but the commit.
async fn write_order(
    outbox: &mut EventWriter<'_>,
    id: OrderId,
    request: &OrderRequest,
    now: OffsetDateTime,
    new_event: &impl Fn(&Event) -> NewEvent,
) -> Result<Order, StoreError> {
    let products =
        catalogue::read(outbox.connection(), request.items.iter().map(|item| &item.product_id)).await?;
    let order = Order::price(id, request, &products, now).map_err(StoreError::UnknownProducts)?;
    reserve(outbox.connection(), &request.items).await?;
    let row = outbox.insert(&ORDERS, id, insert_order(&order)).await;
    let [new_order, reservation] = row.map_err(StoreError::WriteEvents)?;
    insert_lines(outbox.connection(), &order).await?;
    for event in Event::of_new_order(order.clone()) {
        let aggregate = match event {
            Event::OrderCreated(_) => new_order,
            Event::StockReserved(_) => reservation,
        };
        outbox.add(aggregate, new_event(&event)).map_err(StoreError::WriteEvents)?;
    }
    outbox.finish().await.map_err(StoreError::WriteEvents)?;
    Ok(order)
}

/// Waits until the locks are gone. A transaction that is dropped rolls back in the background, and Lambda freezes the
/// process as soon as it has answered: its products would stay locked until the next order thaws it.
async fn roll_back(outbox: EventWriter<'_>) {
    let rolled_back = tokio::time::timeout(ROLL_BACK_LIMIT, outbox.rollback()).await;
    if !matches!(rolled_back, Ok(Ok(()))) {
        tracing::warn!("order not rolled back yet, mysql does so when it misses the connection");
    }
}

/// From here on silence says nothing: the server may have committed and died, or lost the way to us.
async fn commit(outbox: EventWriter<'_>, order_id: OrderId) -> Result<(), StoreError> {
    let source = match tokio::time::timeout(COMMIT_LIMIT, outbox.commit()).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(WriteError::Commit(source))) => source,
        Ok(Err(error)) => return Err(StoreError::WriteEvents(error)),
        Err(elapsed) => sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed)),
    };
    Err(if met_another(&source) {
        StoreError::WriteOrder { step: "committing", source }
    } else {
        StoreError::OutcomeUnknown { order_id, source }
    })
}

/// Takes the stock of every line, or of none.
async fn reserve(connection: &mut MySqlConnection, items: &[RequestedItem]) -> Result<(), StoreError> {
    let failed = |source| StoreError::WriteOrder { step: "reserving stock", source };
    // Every order locks its products in the same sequence, so that two of them queue instead of deadlocking.
    let mut lines: Vec<(usize, &RequestedItem)> = items.iter().enumerate().collect();
    lines.sort_by(|(_, a), (_, b)| a.product_id.cmp(&b.product_id));

    let mut query =
        QueryBuilder::<MySql>::new("SELECT product_id, available FROM inventory WHERE product_id IN ");
    query.push_tuples(&lines, |mut tuple, (_, item)| {
        tuple.push_bind(item.product_id.as_str());
    });
    query.push(" ORDER BY product_id FOR UPDATE");
    let rows = query.build().fetch_all(&mut *connection).await.map_err(failed)?;
    let mut available: HashMap<String, u32> = HashMap::with_capacity(rows.len());
    for row in &rows {
        available
            .insert(row.try_get("product_id").map_err(failed)?, row.try_get("available").map_err(failed)?);
    }
    let mut shortages: Vec<_> = lines
        .iter()
        .filter_map(|(index, item)| {
            let available = available.get(item.product_id.as_str()).copied().unwrap_or(0);
            (available < item.quantity).then(|| Shortage {
                index: *index,
                product_id: item.product_id.clone(),
                requested: item.quantity,
                available,
            })
        })
        .collect();
    if !shortages.is_empty() {
        shortages.sort_by_key(|shortage| shortage.index);
        return Err(StoreError::OutOfStock(shortages));
    }
    for (_, item) in &lines {
        sqlx::query(
            "UPDATE inventory SET available = available - ?, reserved = reserved + ? WHERE product_id = ?",
        )
        .bind(item.quantity)
        .bind(item.quantity)
        .bind(item.product_id.as_str())
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    }
    Ok(())
}

/// Before its first events: the writer moves the versions on.
fn insert_order(order: &Order) -> Query<'_, MySql, MySqlArguments> {
    let created_at = PrimitiveDateTime::new(order.created_at.date(), order.created_at.time());
    sqlx::query(
        "INSERT INTO orders (id, user_id, status, total_amount, item_count, quantity, version, reservation_version, created_at, updated_at)
         VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?, ?)",
    )
    .bind(order.id.to_string())
    .bind(order.user_id.as_str())
    .bind(order.status.as_str())
    .bind(order.total.as_decimal())
    .bind(order.item_count)
    .bind(order.quantity)
    .bind(created_at)
    .bind(created_at)
}

async fn insert_lines(connection: &mut MySqlConnection, order: &Order) -> Result<(), StoreError> {
    let mut insert = QueryBuilder::<MySql>::new(
        "INSERT INTO order_items (order_id, line_no, product_id, name, quantity, unit_price, line_total) ",
    );
    insert.push_values(order.lines.iter().zip(1_u16..), |mut row, (line, line_no)| {
        row.push_bind(order.id.to_string())
            .push_bind(line_no)
            .push_bind(line.product_id.as_str())
            .push_bind(&line.name)
            .push_bind(line.quantity)
            .push_bind(line.unit_price.as_decimal())
            .push_bind(line.line_total.as_decimal());
    });
    insert
        .build()
        .execute(connection)
        .await
        .map_err(|source| StoreError::WriteOrder { step: "inserting its lines", source })?;
    Ok(())
}

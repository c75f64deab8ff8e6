//! The events' contracts: what happened, with the full snapshot that a reader needs.

use crate::{
    id::{OrderId, ProductId},
    order::Order,
};
use serde::Serialize;
use time::OffsetDateTime;

/// Something that happened to one aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    OrderCreated(Order),
    StockReserved(Reservation),
}

/// Stock held for one order. The aggregate is the reservation, not the product: a bestseller's orders must not queue
/// behind each other, nor behind one bad event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    pub order_id: OrderId,
    pub status: ReservationStatus,
    pub lines: Vec<ReservedLine>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ReservationStatus {
    Reserved,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReservedLine {
    pub product_id: ProductId,
    pub quantity: u32,
}

impl Event {
    /// What a new order means, in the order in which it is told.
    pub fn of_new_order(order: Order) -> [Self; 2] {
        let lines = order
            .lines
            .iter()
            .map(|line| ReservedLine { product_id: line.product_id.clone(), quantity: line.quantity })
            .collect();
        let reservation = Reservation {
            order_id: order.id,
            status: ReservationStatus::Reserved,
            lines,
            created_at: order.created_at,
        };
        [Self::OrderCreated(order), Self::StockReserved(reservation)]
    }

    pub fn event_type(&self) -> &'static str {
        match self {
            Self::OrderCreated(_) => "OrderCreated",
            Self::StockReserved(_) => "StockReserved",
        }
    }

    /// The snapshot, as JSON.
    ///
    /// # Panics
    /// Never: the snapshots are plain data.
    pub fn payload(&self) -> serde_json::Value {
        match self {
            Self::OrderCreated(order) => serde_json::to_value(order),
            Self::StockReserved(reservation) => serde_json::to_value(reservation),
        }
        .expect("a snapshot is plain data")
    }
}

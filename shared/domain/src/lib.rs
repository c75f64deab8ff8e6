//! The shop's core: orders, money, stock and the events that tell of them.
//!
//! Pure: clocks and ids are passed in. Must not: perform I/O, or import an AWS, Kafka or database crate.

mod error;
pub mod event;
mod id;
mod money;
mod order;
mod request;

pub use error::{FieldError, InvalidRequest};
pub use id::{OrderId, ProductId, UserId};
pub use money::Money;
pub use order::{Order, OrderLine, OrderStatus, Product, UnknownProducts};
pub use request::{OrderRequest, RequestedItem};

/// What a request may hold. Every limit that a caller can meet stands here.
pub mod limit {
    /// Lines of one order.
    pub const ITEMS: usize = 100;
    /// Pieces of one product in one order.
    pub const QUANTITY: u32 = 9_999;
    /// Characters of a user's or a product's id.
    pub const ID_CHARS: usize = 64;
    /// Bytes of a request's body, 256 KiB: far above 100 lines, far below what Lambda takes.
    pub const BODY_BYTES: usize = 256 * 1024;
}

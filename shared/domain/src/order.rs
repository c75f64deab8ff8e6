//! An order and its price: computed here, from the catalogue, never taken from a caller.

use crate::{
    id::{OrderId, ProductId, UserId},
    money::Money,
    request::OrderRequest,
};
use serde::Serialize;
use std::{collections::HashMap, fmt};
use time::{OffsetDateTime, UtcOffset};

/// A line of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    pub id: ProductId,
    pub name: String,
    pub price: Money,
}

/// PENDING until it is paid or cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum OrderStatus {
    Pending,
}

impl OrderStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
        }
    }
}

impl fmt::Display for OrderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A priced order, in the shape that the API answers and that `OrderCreated` carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    #[serde(rename = "orderId")]
    pub id: OrderId,
    pub user_id: UserId,
    pub status: OrderStatus,
    #[serde(rename = "totalAmount")]
    pub total: Money,
    /// Lines.
    pub item_count: u32,
    /// Pieces, over all lines.
    pub quantity: u32,
    #[serde(rename = "items")]
    pub lines: Vec<OrderLine>,
    /// To the millisecond, UTC: what every store on the way can hold.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderLine {
    pub product_id: ProductId,
    pub name: String,
    pub quantity: u32,
    pub unit_price: Money,
    pub line_total: Money,
}

/// Lines whose product the catalogue does not hold: index and id of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownProducts(pub Vec<(usize, ProductId)>);

impl Order {
    /// Prices a request from the catalogue.
    ///
    /// # Errors
    /// Names every line whose product is not in the catalogue.
    ///
    /// # Panics
    /// Never with prices up to 9,999,999,999.99: a hundred lines of 9,999 pieces stay within `Money`.
    pub fn price(
        id: OrderId,
        request: &OrderRequest,
        catalogue: &HashMap<ProductId, Product>,
        now: OffsetDateTime,
    ) -> Result<Self, UnknownProducts> {
        let unknown: Vec<_> = (request.items.iter().enumerate())
            .filter(|(_, item)| !catalogue.contains_key(&item.product_id))
            .map(|(index, item)| (index, item.product_id.clone()))
            .collect();
        if !unknown.is_empty() {
            return Err(UnknownProducts(unknown));
        }
        let mut total = Money::ZERO;
        let mut lines = Vec::with_capacity(request.items.len());
        for item in &request.items {
            let product = &catalogue[&item.product_id];
            let line_total = product.price.times(item.quantity).expect("the catalogue's prices are bounded");
            total = total.plus(line_total).expect("a hundred bounded lines stay in range");
            lines.push(OrderLine {
                product_id: product.id.clone(),
                name: product.name.clone(),
                quantity: item.quantity,
                unit_price: product.price,
                line_total,
            });
        }
        Ok(Self {
            id,
            user_id: request.user_id.clone(),
            status: OrderStatus::Pending,
            total,
            item_count: u32::try_from(lines.len()).expect("a request has at most 100 lines"),
            quantity: request.items.iter().map(|item| item.quantity).sum(),
            lines,
            created_at: to_millisecond(now),
        })
    }
}

/// MySQL's DATETIME(3) rounds and ClickHouse's DateTime64(3) cuts: cut once, here, and both hold the same.
fn to_millisecond(time: OffsetDateTime) -> OffsetDateTime {
    let time = time.to_offset(UtcOffset::UTC);
    time.replace_millisecond(time.millisecond()).expect("a millisecond of a time fits that time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use time::macros::datetime;

    fn catalogue() -> HashMap<ProductId, Product> {
        let product = |id: &str, name: &str, price: &str| {
            let id = ProductId::parse(id).expect("a good id");
            let price = Money::from_decimal(price.parse().expect("a decimal")).expect("money");
            (id.clone(), Product { id, name: name.to_owned(), price })
        };
        HashMap::from([product("p-001", "Espresso cup", "19.99"), product("p-002", "Saucer", "0.10")])
    }

    fn price(body: &str) -> Result<Order, UnknownProducts> {
        let request = OrderRequest::from_json(body.as_bytes()).expect("a good request");
        Order::price(
            OrderId(uuid::Uuid::nil()),
            &request,
            &catalogue(),
            datetime!(2026-11-23 08:11:32.123_987 +1),
        )
    }

    #[test]
    fn an_order_is_priced_from_the_catalogue_to_the_cent() {
        let order = price(
            r#"{"userId": "u-1", "items": [{"productId": "p-001", "quantity": 3}, {"productId": "p-002", "quantity": 7}]}"#,
        )
        .expect("both are known");

        expect![[r#"{"orderId":"00000000-0000-0000-0000-000000000000","userId":"u-1","status":"PENDING","totalAmount":"60.67","itemCount":2,"quantity":10,"items":[{"productId":"p-001","name":"Espresso cup","quantity":3,"unitPrice":"19.99","lineTotal":"59.97"},{"productId":"p-002","name":"Saucer","quantity":7,"unitPrice":"0.10","lineTotal":"0.70"}],"createdAt":"2026-11-23T07:11:32.123Z"}"#]]
            .assert_eq(&serde_json::to_string(&order).expect("plain data"));
    }

    #[test]
    fn every_unknown_product_is_named() {
        let UnknownProducts(unknown) = price(
            r#"{"userId": "u-1", "items": [{"productId": "x", "quantity": 1}, {"productId": "p-001", "quantity": 1}, {"productId": "y", "quantity": 1}]}"#,
        )
        .unwrap_err();

        assert_eq!(
            unknown.iter().map(|(index, id)| (*index, id.as_str())).collect::<Vec<_>>(),
            [(0, "x"), (2, "y")]
        );
    }
}

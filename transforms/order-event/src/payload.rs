//! The payload of `OrderCreated`, version 1.

use outflow_transform_sdk::{Decimal, decimal};
use serde::Deserialize;
use std::borrow::Cow;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OrderCreated<'a> {
    #[serde(borrow)]
    pub(crate) order_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) user_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) status: Cow<'a, str>,
    #[serde(borrow)]
    total_amount: Cow<'a, str>,
    /// Lines of the order.
    pub(crate) item_count: u32,
    /// Pieces over all lines.
    pub(crate) quantity: u32,
    #[serde(borrow)]
    items: Vec<Item<'a>>,
    #[serde(borrow)]
    pub(crate) created_at: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    quantity: u32,
    #[serde(borrow)]
    line_total: Cow<'a, str>,
}

impl<'a> OrderCreated<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self, String> {
        serde_json::from_slice(payload).map_err(|e| e.to_string())
    }

    /// The order's total, once its figures agree with its lines.
    pub(crate) fn total(&self) -> Result<Decimal, String> {
        let total = money("totalAmount", &self.total_amount)?;
        let lines = self.items.len();
        if usize::try_from(self.item_count) != Ok(lines) {
            return Err(format!("itemCount is {}, items has {lines}", self.item_count));
        }
        let pieces: u64 = self.items.iter().map(|item| u64::from(item.quantity)).sum();
        if u64::from(self.quantity) != pieces {
            return Err(format!("quantity is {}, the items add up to {pieces}", self.quantity));
        }
        let mut sum = Decimal::ZERO;
        for item in &self.items {
            let line = money("lineTotal", &item.line_total)?;
            sum = sum.checked_add(line).ok_or("the line totals add up to more than a decimal holds")?;
        }
        if sum != total {
            return Err(format!("totalAmount is {total}, the line totals add up to {sum}"));
        }
        Ok(total)
    }
}

fn money(field: &str, text: &str) -> Result<Decimal, String> {
    let amount = decimal::parse(text).map_err(|e| format!("{field}: {e}"))?;
    if amount.is_sign_negative() && !amount.is_zero() {
        return Err(format!("{field}: below zero"));
    }
    Ok(amount)
}

//! The payload of `OrderCreated`, version 1.

use outflow_transform_sdk::{Decimal, Event, decimal};
use serde::Deserialize;
use std::borrow::Cow;

/// An order as it was created, with what is wanted of its lines. Money is decimal text.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "L: Deserialize<'de>"))]
pub struct OrderCreated<'a, L> {
    #[serde(borrow)]
    pub order_id: Cow<'a, str>,
    #[serde(borrow)]
    pub user_id: Cow<'a, str>,
    #[serde(borrow)]
    pub status: Cow<'a, str>,
    #[serde(borrow)]
    pub total_amount: Cow<'a, str>,
    /// Lines of the order.
    pub item_count: u32,
    /// Pieces over all lines.
    pub quantity: u32,
    pub items: Vec<L>,
    #[serde(borrow)]
    pub created_at: Cow<'a, str>,
}

/// What every reader of an order looks at in a line: whether the lines add up to the order.
pub trait Line {
    fn quantity(&self) -> u32;
    fn line_total(&self) -> &str;
}

/// A line's figures alone.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures<'a> {
    quantity: u32,
    #[serde(borrow)]
    line_total: Cow<'a, str>,
}

/// A whole line.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item<'a> {
    #[serde(borrow)]
    pub product_id: Cow<'a, str>,
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    pub quantity: u32,
    #[serde(borrow)]
    pub unit_price: Cow<'a, str>,
    #[serde(borrow)]
    pub line_total: Cow<'a, str>,
}

impl Line for Figures<'_> {
    fn quantity(&self) -> u32 {
        self.quantity
    }

    fn line_total(&self) -> &str {
        &self.line_total
    }
}

impl Line for Item<'_> {
    fn quantity(&self) -> u32 {
        self.quantity
    }

    fn line_total(&self) -> &str {
        &self.line_total
    }
}

impl<'a, L: Line + Deserialize<'a>> OrderCreated<'a, L> {
    pub(crate) fn read(event: &Event<'a>) -> Result<Self, String> {
        // Once for all of it: a text is then taken for what it is, name by name and value by value.
        let text = event.text().map_err(|e| e.to_string())?;
        serde_json::from_str(text).map_err(|e| e.to_string())
    }

    /// The order's total, once its figures agree with its lines.
    pub(crate) fn total(&self) -> Result<Decimal, String> {
        let total = money("totalAmount", &self.total_amount)?;
        let lines = self.items.len();
        if usize::try_from(self.item_count) != Ok(lines) {
            return Err(format!("itemCount is {}, items has {lines}", self.item_count));
        }
        let pieces: u64 = self.items.iter().map(|item| u64::from(item.quantity())).sum();
        if u64::from(self.quantity) != pieces {
            return Err(format!("quantity is {}, the items add up to {pieces}", self.quantity));
        }
        let mut sum = Decimal::ZERO;
        for item in &self.items {
            let line = money("lineTotal", item.line_total())?;
            sum = sum.checked_add(line).ok_or("the line totals add up to more than a decimal holds")?;
        }
        if sum != total {
            return Err(format!("totalAmount is {total}, the line totals add up to {sum}"));
        }
        Ok(total)
    }
}

/// An amount of the payload, not below zero.
///
/// # Errors
/// Names the field.
pub fn money(field: &str, text: &str) -> Result<Decimal, String> {
    let amount = decimal::parse(text).map_err(|e| format!("{field}: {e}"))?;
    if amount.is_sign_negative() && !amount.is_zero() {
        return Err(format!("{field}: below zero"));
    }
    Ok(amount)
}

//! What a customer asks for, parsed at the edge: past this point nothing is out of bounds.

use crate::{
    error::{FieldError, InvalidRequest},
    id::{ProductId, UserId},
    limit,
};
use serde::Deserialize;
use std::collections::HashMap;

/// A request whose every field is within its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRequest {
    pub user_id: UserId,
    /// 1 to 100 lines, each product once.
    pub items: Vec<RequestedItem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedItem {
    pub product_id: ProductId,
    /// 1 to 9,999 pieces.
    pub quantity: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRequest {
    user_id: String,
    items: Vec<RawItem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawItem {
    product_id: String,
    quantity: i64,
}

impl OrderRequest {
    /// Parses `{"userId": …, "items": [{"productId": …, "quantity": …}, …]}`.
    ///
    /// # Errors
    /// Names every field that is out of bounds, with its limit; where the shape itself is wrong, the first such place.
    pub fn from_json(body: &[u8]) -> Result<Self, InvalidRequest> {
        if body.len() > limit::BODY_BYTES {
            return Err(InvalidRequest::TooLarge { bytes: body.len(), limit: limit::BODY_BYTES });
        }
        Self::check(parse(body)?)
    }

    fn check(raw: RawRequest) -> Result<Self, InvalidRequest> {
        let mut wrong = Vec::new();
        let mut refuse = |pointer: String, detail: String| wrong.push(FieldError { pointer, detail });

        let user_id = UserId::parse(&raw.user_id).map_err(|detail| refuse("/userId".to_owned(), detail)).ok();
        if raw.items.is_empty() || raw.items.len() > limit::ITEMS {
            refuse(
                "/items".to_owned(),
                format!("must have 1 to {} items, has {}", limit::ITEMS, raw.items.len()),
            );
        }
        let mut items = Vec::with_capacity(raw.items.len().min(limit::ITEMS));
        let mut first_at: HashMap<ProductId, usize> = HashMap::new();
        // Beyond the limit the list itself is the error; naming each line after it would only bury that.
        for (index, raw_item) in raw.items.into_iter().enumerate().take(limit::ITEMS) {
            let product_id = ProductId::parse(&raw_item.product_id)
                .map_err(|detail| refuse(format!("/items/{index}/productId"), detail))
                .ok();
            if let Some(product_id) = &product_id
                && let Some(first) = first_at.insert(product_id.clone(), index)
            {
                refuse(
                    format!("/items/{index}/productId"),
                    format!("repeats /items/{first}: name each product once"),
                );
            }
            let quantity =
                u32::try_from(raw_item.quantity).ok().filter(|q| (1..=limit::QUANTITY).contains(q));
            if quantity.is_none() {
                refuse(
                    format!("/items/{index}/quantity"),
                    format!("must be 1 to {}, is {}", limit::QUANTITY, raw_item.quantity),
                );
            }
            items.extend(
                product_id.zip(quantity).map(|(product_id, quantity)| RequestedItem { product_id, quantity }),
            );
        }
        match user_id {
            Some(user_id) if wrong.is_empty() => Ok(Self { user_id, items }),
            _ => Err(InvalidRequest::Fields(wrong)),
        }
    }
}

fn parse(body: &[u8]) -> Result<RawRequest, InvalidRequest> {
    must_be_objects(body)?;
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let cause = error.inner();
        if cause.is_data() {
            let (pointer, detail) = (pointer(error.path()), without_position(&cause.to_string()));
            InvalidRequest::Fields(vec![FieldError { pointer, detail }])
        } else {
            InvalidRequest::Malformed(cause.to_string())
        }
    })
}

/// serde takes an array for a struct, its fields by position; an API should not.
fn must_be_objects(body: &[u8]) -> Result<(), InvalidRequest> {
    let value: serde_json::Value =
        serde_json::from_slice(body).map_err(|error| InvalidRequest::Malformed(error.to_string()))?;
    let items = value.get("items").and_then(|items| items.as_array()).into_iter().flatten().enumerate();
    let wrong: Vec<_> = std::iter::once((String::new(), &value))
        .chain(items.map(|(index, item)| (format!("/items/{index}"), item)))
        .filter(|(_, value)| !value.is_object())
        .map(|(pointer, _)| FieldError { pointer, detail: "must be a JSON object".to_owned() })
        .take(limit::ITEMS)
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(InvalidRequest::Fields(wrong)) }
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                pointer.push('/');
                pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// The pointer says where; a line and column of the body would say it twice.
fn without_position(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(text, _)| text);
    message.replace("expected i64", "expected a whole number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(body: &str, expected: Expect) {
        let text = match OrderRequest::from_json(body.as_bytes()) {
            Ok(request) => format!("{} orders {} lines", request.user_id, request.items.len()),
            Err(InvalidRequest::Fields(fields)) => {
                fields.iter().map(|f| format!("{} {}", f.pointer, f.detail)).collect::<Vec<_>>().join("\n")
            }
            Err(other) => other.to_string(),
        };
        expected.assert_eq(&text);
    }

    fn order(items: &str) -> String {
        format!(r#"{{"userId": "u-1", "items": {items}}}"#)
    }

    #[test]
    fn a_good_request_is_taken() {
        check(&order(r#"[{"productId": "p-001", "quantity": 9999}]"#), expect!["u-1 orders 1 lines"]);
    }

    #[test]
    fn what_is_not_json_says_where_it_breaks() {
        check("{", expect!["the body is not JSON: EOF while parsing an object at line 1 column 1"]);
        check("", expect!["the body is not JSON: EOF while parsing a value at line 1 column 0"]);
        check(
            &format!("{} x", order("[]")),
            expect!["the body is not JSON: trailing characters at line 1 column 32"],
        );
    }

    #[test]
    fn wrong_shapes_name_their_field() {
        check(r#"{"userId": "u"}"#, expect![" missing field `items`"]);
        check(
            r#"{"userId": "u", "items": [], "total": 1}"#,
            expect!["/total unknown field `total`, expected `userId` or `items`"],
        );
        check(
            &order(r#"[{"productId": "p", "quantity": "2"}]"#),
            expect![[r#"/items/0/quantity invalid type: string "2", expected a whole number"#]],
        );
        check(
            &order(r#"[{"productId": "p", "quantity": 2.5}]"#),
            expect!["/items/0/quantity invalid type: floating point `2.5`, expected a whole number"],
        );
        check("[]", expect![" must be a JSON object"]);
        check(&order(r#"[["p", 1]]"#), expect!["/items/0 must be a JSON object"]);
    }

    #[test]
    fn every_field_out_of_bounds_is_named_with_its_limit() {
        check(
            r#"{"userId": "a b", "items": [{"productId": "", "quantity": 0}, {"productId": "p", "quantity": 10000},
                {"productId": "p", "quantity": -1}]}"#,
            expect![[r#"
                /userId may hold A-Z a-z 0-9 . _ : @ - only, holds ' '
                /items/0/productId must have 1 to 64 characters, has 0
                /items/0/quantity must be 1 to 9999, is 0
                /items/1/quantity must be 1 to 9999, is 10000
                /items/2/productId repeats /items/1: name each product once
                /items/2/quantity must be 1 to 9999, is -1"#]],
        );
    }

    #[test]
    fn the_number_of_lines_is_bounded_on_both_sides() {
        let lines: Vec<_> =
            (0..=limit::ITEMS).map(|n| format!(r#"{{"productId": "p{n}", "quantity": 1}}"#)).collect();
        check(&order("[]"), expect!["/items must have 1 to 100 items, has 0"]);
        check(&order(&format!("[{}]", lines.join(","))), expect!["/items must have 1 to 100 items, has 101"]);
        check(&order(&format!("[{}]", lines[1..].join(","))), expect!["u-1 orders 100 lines"]);
    }

    #[test]
    fn a_body_over_the_limit_is_not_parsed() {
        check(
            &" ".repeat(limit::BODY_BYTES + 1),
            expect!["the body has 262145 bytes, at most 262144 are taken"],
        );
    }
}

//! Money: a decimal with two places, from end to end. No float ever holds it.

use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use std::fmt;

/// An amount in the shop's currency: 0.00 to 9,999,999,999,999,999.99, what DECIMAL(18,2) holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(Decimal);

/// Cents of the largest amount that DECIMAL(18,2) holds.
const MAX_CENTS: i128 = 999_999_999_999_999_999;
const PLACES: u32 = 2;

impl Money {
    pub const ZERO: Self = Self(Decimal::from_parts(0, 0, 0, false, PLACES));

    /// Takes an amount that is exact in cents; None below zero, above the range, or with a fraction of a cent.
    pub fn from_decimal(amount: Decimal) -> Option<Self> {
        let mut exact = amount;
        exact.rescale(PLACES);
        let in_range = exact == amount && !exact.is_sign_negative() && exact.mantissa() <= MAX_CENTS;
        in_range.then_some(Self(exact))
    }

    /// The price of so many pieces; None above the range.
    pub fn times(self, quantity: u32) -> Option<Self> {
        self.0.checked_mul(Decimal::from(quantity)).and_then(Self::from_decimal)
    }

    /// None above the range.
    pub fn plus(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(Self::from_decimal)
    }

    pub fn as_decimal(self) -> Decimal {
        self.0
    }
}

/// Always two places: "59.90".
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.0)
    }
}

/// A string, so that no reader takes it for a float.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn money(text: &str) -> Option<Money> {
        Money::from_decimal(text.parse().expect("the test writes decimals"))
    }

    #[test]
    fn a_fraction_of_a_cent_a_debt_and_an_overflow_are_no_money() {
        assert_eq!(money("0.001"), None);
        assert_eq!(money("-0.01"), None);
        assert_eq!(money("10000000000000000.00"), None);
        assert_eq!(money("9999999999999999.99").map(|m| m.times(2)), Some(None));
    }

    #[test]
    fn two_places_always_show() {
        assert_eq!(money("5").map(|m| m.to_string()).as_deref(), Some("5.00"));
        assert_eq!(serde_json::to_string(&Money::ZERO).expect("plain"), "\"0.00\"");
    }

    proptest! {
        #[test]
        fn lines_add_up_to_the_cent(cents in proptest::collection::vec((0_i64..10_000_000, 1_u32..10_000), 1..100)) {
            let mut total = Money::ZERO;
            for (price, quantity) in &cents {
                let price = Money::from_decimal(Decimal::new(*price, 2)).expect("in range");
                total = price.times(*quantity).and_then(|line| total.plus(line)).expect("in range");
            }
            let expected: i128 = cents.iter().map(|(price, quantity)| i128::from(*price) * i128::from(*quantity)).sum();
            prop_assert_eq!(total.as_decimal().mantissa(), expected);
        }
    }
}

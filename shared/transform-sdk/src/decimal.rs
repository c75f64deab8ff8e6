//! Money without floats: text in, text out.

use crate::Decimal;

/// The longest text that is looked at: more digits than any `Decimal(38, S)` can hold.
const MAX_LEN: usize = 48;
/// Of digits and a point that a 64-bit number can be counted up from.
const MAX_SHORT: usize = 18;

/// Reads a plain decimal such as `59.97` or `-3`: digits, at most one point, no exponent, no spaces.
///
/// # Errors
/// Says what is wrong with the text, in words that may be shown.
pub fn parse(text: &str) -> Result<Decimal, String> {
    let bytes = text.as_bytes();
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let no_plain = || Err("not a plain decimal such as 59.97".to_owned());
    let [first, .., last] = digits else {
        return match digits {
            [digit @ b'0'..=b'9'] => Ok(signed(bytes, i64::from(digit - b'0'), 0)),
            _ => no_plain(),
        };
    };
    if text.len() > MAX_LEN || !first.is_ascii_digit() || !last.is_ascii_digit() {
        return no_plain();
    }
    // 18 digits fit into 64 bits; of a longer text only its form counts here.
    let (mut number, mut point) = (0_i64, None);
    for (at, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => number = number.wrapping_mul(10).wrapping_add(i64::from(byte - b'0')),
            b'.' if point.is_none() => point = Some(at),
            _ => return no_plain(),
        }
    }
    if digits.len() <= MAX_SHORT {
        return Ok(signed(bytes, number, point.map_or(0, |at| digits.len() - at - 1)));
    }
    Decimal::from_str_exact(text).map_err(|_| "more digits than a decimal can hold".to_owned())
}

fn signed(text: &[u8], number: i64, digits_behind_point: usize) -> Decimal {
    let number = if text.starts_with(b"-") { -number } else { number };
    Decimal::new(number, u32::try_from(digits_behind_point).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_decimals_are_read_and_anything_else_is_refused() {
        for good in ["0", "0.00", "59.97", "-3", "123456789012345678.12"] {
            assert_eq!(parse(good).map(|d| d.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "-", ".5", "5.", "1e3", "+1", " 1", "1 ", "1,5", "1.2.3", "NaN", "0x1", "١"] {
            assert!(parse(bad).is_err(), "{bad:?} was read");
        }
        assert!(parse(&"9".repeat(40)).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(cents in any::<i64>()) {
            let decimal = Decimal::new(cents, 2);
            prop_assert_eq!(parse(&decimal.to_string()), Decimal::from_str_exact(&decimal.to_string()).map_err(|e| e.to_string()));
            prop_assert_eq!(parse(&decimal.to_string()), Ok(decimal));
        }
    }
}

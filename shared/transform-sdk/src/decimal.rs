//! Money without floats: text in, text out.

use crate::Decimal;

/// The longest text that is looked at: more digits than any `Decimal(38, S)` can hold.
const MAX_LEN: usize = 48;

/// Reads a plain decimal such as `59.97` or `-3`: digits, at most one point, no exponent, no spaces.
///
/// # Errors
/// Says what is wrong with the text, in words that may be shown.
pub fn parse(text: &str) -> Result<Decimal, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty()
        && text.len() <= MAX_LEN
        && digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.ends_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == '.')
        && digits.matches('.').count() <= 1;
    if !plain {
        return Err("not a plain decimal such as 59.97".to_owned());
    }
    if text.len() <= 18 {
        return Ok(short(text));
    }
    Decimal::from_str_exact(text).map_err(|_| "more digits than a decimal can hold".to_owned())
}

/// As most amounts are: up to 18 digits, which a 64-bit number holds.
fn short(plain: &str) -> Decimal {
    let (mut number, mut scale, mut behind_point) = (0_i64, 0, false);
    for byte in plain.bytes() {
        match byte {
            b'0'..=b'9' => {
                number = number * 10 + i64::from(byte - b'0');
                scale += u32::from(behind_point);
            }
            b'.' => behind_point = true,
            _ => {}
        }
    }
    Decimal::new(if plain.starts_with('-') { -number } else { number }, scale)
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

//! Decimals: text that fits `Decimal(P, S)` without losing a digit.

/// No decimal of 38 digits is longer, with sign, point and some zeros around.
const MAX_LEN: usize = 80;

/// Writes the text as a JSON string. Zeros that say nothing are left out where they wouldn't fit.
pub(super) fn write(text: &str, precision: u32, scale: u32, out: &mut Vec<u8>) -> Result<(), &'static str> {
    if text.len() > MAX_LEN {
        return Err("too long");
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    let (whole, fraction) = match digits.split_once('.') {
        Some((_, "")) => return Err("no digit after the point"),
        Some(parts) => parts,
        None => (digits, ""),
    };
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return Err("not digits with at most one point");
    }
    let whole = whole.trim_start_matches('0');
    if whole.len() > (precision - scale) as usize {
        return Err("too many digits before the point");
    }
    let needed = fraction.trim_end_matches('0');
    if needed.len() > scale as usize {
        return Err("more digits after the point than the column keeps");
    }
    let fraction = if fraction.len() > scale as usize { needed } else { fraction };
    out.push(b'"');
    out.extend_from_slice(sign.as_bytes());
    out.extend_from_slice(if whole.is_empty() { b"0" } else { whole.as_bytes() });
    if !fraction.is_empty() {
        out.push(b'.');
        out.extend_from_slice(fraction.as_bytes());
    }
    out.push(b'"');
    Ok(())
}

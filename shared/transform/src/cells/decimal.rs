//! Decimals: text, or a number and its digits behind the point, that fits `Decimal(P, S)` without losing a digit.

/// No decimal of 38 digits is longer, with sign, point and some zeros around.
const MAX_LEN: usize = 80;
/// ClickHouse's Decimal has no more, before and behind the point together.
const MAX_DIGITS: u32 = 38;

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
    let (fraction, beyond) = fraction.split_at(fraction.len().min(scale as usize));
    if beyond.bytes().any(|b| b != b'0') {
        return Err("more digits after the point than the column keeps");
    }
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

/// Writes `number / 10^digits` as a JSON string. Zeros that say nothing are left out where they wouldn't fit.
pub(super) fn write_scaled(
    mut number: i128,
    digits: u8,
    precision: u32,
    scale: u32,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    let mut digits = u32::from(digits);
    if digits > MAX_DIGITS {
        return Err("too many digits");
    }
    while digits > scale {
        if number % 10 != 0 {
            return Err("more digits after the point than the column keeps");
        }
        number /= 10;
        digits -= 1;
    }
    if number.unsigned_abs() >= 10_u128.pow(precision - scale + digits) {
        return Err("too many digits before the point");
    }
    out.push(b'"');
    if number < 0 {
        out.push(b'-');
    }
    let mut buffer = itoa::Buffer::new();
    // Most amounts fit into 64 bits, which are divided faster.
    let text = match u64::try_from(number.unsigned_abs()) {
        Ok(short) => buffer.format(short),
        Err(_) => buffer.format(number.unsigned_abs()),
    }
    .as_bytes();
    let digits = digits as usize;
    match text.len().checked_sub(digits) {
        _ if digits == 0 => out.extend_from_slice(text),
        Some(whole) if whole > 0 => {
            out.extend_from_slice(&text[..whole]);
            out.push(b'.');
            out.extend_from_slice(&text[whole..]);
        }
        _ => {
            out.extend_from_slice(b"0.");
            out.extend(std::iter::repeat_n(b'0', digits - text.len()));
            out.extend_from_slice(text);
        }
    }
    out.push(b'"');
    Ok(())
}

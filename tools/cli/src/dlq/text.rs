//! What the tables and the JSON share.

use base64::{Engine, prelude::BASE64_STANDARD};
use outflow_broker::letters::letter::Cause;
use serde::{Serialize, Serializer, ser::SerializeMap};

/// Digits of a digest in a table; any beginning of one is understood.
const DIGEST_CHARS: usize = 12;

/// Bytes of a record as JSON: null where there are none, `{"text": …}` where they are text, else `{"base64": …}`.
#[derive(Debug)]
pub(super) struct Bytes<'a>(pub(super) Option<&'a [u8]>);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(bytes) = self.0 else { return serializer.serialize_none() };
        let mut map = serializer.serialize_map(Some(1))?;
        match std::str::from_utf8(bytes) {
            Ok(text) => map.serialize_entry("text", text)?,
            Err(_) => map.serialize_entry("base64", &BASE64_STANDARD.encode(bytes))?,
        }
        map.end()
    }
}

/// For people: text as it is unless it would play with the terminal.
impl std::fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(bytes) = self.0 else { return f.write_str("(none)") };
        let harmless = |text: &&str| !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t');
        match std::str::from_utf8(bytes).ok().filter(harmless) {
            Some("") => f.write_str("(empty)"),
            Some(text) => f.write_str(text),
            None => write!(f, "{} bytes, base64 {}", bytes.len(), BASE64_STANDARD.encode(bytes)),
        }
    }
}

/// JSON over several lines, anything else as [`Bytes`] are.
pub(super) fn value(bytes: Option<&[u8]>) -> String {
    let json = bytes.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok());
    match json.filter(|json| json.is_object() || json.is_array()) {
        Some(json) => format!("{json:#}"),
        None => Bytes(bytes).to_string(),
    }
}

pub(super) fn module(cause: &Cause) -> &str {
    let digest = cause.module.as_deref().unwrap_or("-");
    digest.get(..DIGEST_CHARS).unwrap_or(digest)
}

/// "1 letter", "2 letters".
pub(super) fn letters(number: u64) -> String {
    format!("{} letter{}", crate::outbox::text::count(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_as_what_they_are() {
        let json = |bytes| serde_json::to_string(&Bytes(bytes)).expect("plain data");
        assert_eq!(json(None), "null");
        assert_eq!(json(Some(b"")), r#"{"text":""}"#);
        assert_eq!(json(Some("é\0".as_bytes())), r#"{"text":"é\u0000"}"#);
        assert_eq!(json(Some(b"\xff")), r#"{"base64":"/w=="}"#);
        let told = [None, Some(&b""[..]), Some(b"a b"), Some(b"\x1b[2J"), Some(b"\xff")].map(value);
        assert_eq!(told, ["(none)", "(empty)", "a b", "4 bytes, base64 G1sySg==", "1 bytes, base64 /w=="]);
        assert_eq!(value(Some(br#"{"a":[1]}"#)), "{\n  \"a\": [\n    1\n  ]\n}");
    }
}

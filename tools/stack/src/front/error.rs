//! ClickHouse's exceptions as its HTTP interface shows them: a code, a text and a status.

use axum::http::StatusCode;

/// Codes that the front itself raises, named as in ClickHouse's `ErrorCodes`.
pub(crate) mod code {
    pub(crate) const CANNOT_READ_ALL_DATA: i32 = 33;
    pub(crate) const BAD_ARGUMENTS: i32 = 36;
    pub(crate) const TOO_LARGE_SIZE_COMPRESSED: i32 = 39;
    pub(crate) const CHECKSUM_DOESNT_MATCH: i32 = 40;
    pub(crate) const NOT_IMPLEMENTED: i32 = 48;
    pub(crate) const SYNTAX_ERROR: i32 = 62;
    pub(crate) const UNKNOWN_TYPE_OF_QUERY: i32 = 78;
    pub(crate) const UNKNOWN_COMPRESSION_METHOD: i32 = 89;
    pub(crate) const UNKNOWN_SETTING: i32 = 115;
    pub(crate) const READONLY: i32 = 164;
    pub(crate) const REQUIRED_PASSWORD: i32 = 194;
    pub(crate) const TOO_MANY_SIMULTANEOUS_QUERIES: i32 = 202;
    pub(crate) const SOCKET_TIMEOUT: i32 = 209;
    pub(crate) const NETWORK_ERROR: i32 = 210;
    pub(crate) const QUERY_IS_TOO_LARGE: i32 = 229;
    pub(crate) const CANNOT_DECOMPRESS: i32 = 271;
    pub(crate) const INTO_OUTFILE_NOT_ALLOWED: i32 = 358;
    pub(crate) const ACCESS_DENIED: i32 = 497;
    pub(crate) const AUTHENTICATION_FAILED: i32 = 516;
    pub(crate) const UNKNOWN_EXCEPTION: i32 = 1002;
}

/// An exception on its way to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exception {
    /// ClickHouse's number.
    pub(crate) code: i32,
    /// `Code: N. DB::Exception: … (NAME)`, without the version.
    text: String,
}

impl Exception {
    /// One of the front's own. `name` is the code's name in ClickHouse.
    pub(crate) fn new(code: i32, name: &str, message: impl std::fmt::Display) -> Self {
        Self { code, text: format!("Code: {code}. DB::Exception: {message}. ({name})") }
    }

    /// What the engine said, taken as it is.
    pub(crate) fn engine(text: String) -> Self {
        let number = text.split_once("Code: ").map_or("", |(_, rest)| rest);
        let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        match number[..digits].parse() {
            Ok(code) => Self { code, text },
            // Some failures of the embedding itself carry no code.
            Err(_) => Self::new(code::UNKNOWN_EXCEPTION, "UNKNOWN_EXCEPTION", text),
        }
    }

    /// The response's body: the text, the engine's version, a line feed.
    pub(crate) fn body(&self, version: &str) -> String {
        let text = self.text.trim_end();
        if text.contains("(version ") { format!("{text}\n") } else { format!("{text} (version {version})\n") }
    }

    /// The HTTP status that ClickHouse gives for this code.
    pub(crate) fn status(&self) -> StatusCode {
        match self.code {
            194 => StatusCode::UNAUTHORIZED,
            192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
            6 | 8 | 15 | 25 | 26 | 27 | 36 | 37 | 38 | 41 | 44 | 53 | 62 | 72 | 117 | 123 | 167 | 168
            | 223 | 321 | 376 | 427 | 441 | 675 | 676 => StatusCode::BAD_REQUEST,
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 152 | 336 | 511 => StatusCode::NOT_FOUND,
            229 => StatusCode::PAYLOAD_TOO_LARGE,
            381 => StatusCode::LENGTH_REQUIRED,
            48 => StatusCode::NOT_IMPLEMENTED,
            76 | 209 | 439 => StatusCode::SERVICE_UNAVAILABLE,
            159 => StatusCode::REQUEST_TIMEOUT,
            779 => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl std::fmt::Display for Exception {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Exception {}

/// Reading a body fails with an [`std::io::Error`]; the exception travels inside it.
impl From<Exception> for std::io::Error {
    fn from(exception: Exception) -> Self {
        Self::other(exception)
    }
}

impl From<std::io::Error> for Exception {
    fn from(error: std::io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(exception) => exception,
            Err(error) => Self::new(code::CANNOT_DECOMPRESS, "CANNOT_DECOMPRESS", error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_engines_code() {
        let exception =
            Exception::engine("Code: 60. DB::Exception: Unknown table. (UNKNOWN_TABLE)".to_owned());
        assert_eq!((exception.code, exception.status()), (60, StatusCode::NOT_FOUND));
        assert!(exception.body("26.7").ends_with("(UNKNOWN_TABLE) (version 26.7)\n"));
        assert_eq!(Exception::engine("Failed to parse".to_owned()).code, 1002);
    }
}

//! A request's URL and headers, sorted into what ClickHouse's HTTP interface makes of them.

use axum::extract::Query;
use axum::http::{HeaderMap, Method, Uri, header};

use super::compress::Coding;
use super::error::{Exception, code};
use super::users::Credentials;

/// URL parameters that ClickHouse's handler takes for itself and that mean nothing here.
const IGNORED: &[&str] = &["quota_key", "buffer_size", "session_timeout", "session_check", "stacktrace"];

/// Everything of a request but its body.
pub(crate) struct Request {
    /// GET and HEAD can't write.
    pub(crate) reads: bool,
    /// The `query` parameter.
    pub(crate) query: String,
    pub(crate) database: Option<String>,
    /// Used where the query names no format.
    pub(crate) format: String,
    /// In the order of the URL; a later one of the same name wins.
    pub(crate) settings: Vec<(String, String)>,
    /// `param_x` without its prefix.
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) id: String,
    /// The whole result is computed before the first byte is sent.
    pub(crate) wait: bool,
    /// The body is in ClickHouse's compressed framing.
    pub(crate) compressed: bool,
    /// The body's `Content-Encoding`.
    pub(crate) encoding: Option<String>,
    pub(crate) coding: Coding,
    /// The boundary of a `multipart/form-data` body.
    pub(crate) boundary: Option<String>,
    /// Native blocks in the shape of this revision of ClickHouse's TCP protocol.
    pub(crate) revision: u64,
}

impl Request {
    /// Reads URL and headers, and who asks.
    ///
    /// # Errors
    /// What can't be honoured is named: sessions, roles, names that aren't settings.
    pub(crate) fn parse(
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(Self, Option<Credentials>), Exception> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| bad(format!("the URL's parameters can't be read: {error}")))?;
        let mut request = Self {
            reads: method == Method::GET || method == Method::HEAD,
            query: String::new(),
            database: text("x-clickhouse-database"),
            format: text("x-clickhouse-format").unwrap_or_else(|| "TabSeparated".to_owned()),
            settings: Vec::new(),
            parameters: Vec::new(),
            id: String::new(),
            wait: false,
            compressed: false,
            encoding: text(header::CONTENT_ENCODING.as_str()).map(|name| name.to_ascii_lowercase()),
            coding: Coding::Plain,
            boundary: text(header::CONTENT_TYPE.as_str()).as_deref().and_then(boundary),
            revision: 0,
        };
        let (mut user, mut password) = (None, None);
        let (mut native, mut http_compression) = (false, true);
        for (name, value) in pairs {
            match name.as_str() {
                "query" => request.query.push_str(&value),
                "database" => request.database = Some(value),
                "default_format" => request.format = value,
                "user" => user = Some(value),
                "password" => password = Some(value),
                "query_id" => request.id = value,
                "wait_end_of_query" => request.wait = flag(&value),
                "compress" => native = flag(&value),
                "decompress" => request.compressed = flag(&value),
                "client_protocol_version" => {
                    request.revision = value.parse().map_err(|_| {
                        bad(format!("client_protocol_version must be a number, not {value:?}"))
                    })?;
                }
                "session_id" => {
                    let message = "session_id: every request is a session of its own here; leave it out";
                    return Err(Exception::new(code::NOT_IMPLEMENTED, "NOT_IMPLEMENTED", message));
                }
                "role" => {
                    let message = "role: there are no roles here; leave it out";
                    return Err(Exception::new(512, "SET_NON_GRANTED_ROLE", message));
                }
                name if IGNORED.contains(&name) => {}
                _ => {
                    if name == "enable_http_compression" {
                        http_compression = flag(&value);
                    }
                    request.take(name, value)?;
                }
            }
        }
        request.database = request.database.filter(|name| !name.is_empty());
        if request.format.is_empty() {
            "TabSeparated".clone_into(&mut request.format);
        }
        let accepts = text(header::ACCEPT_ENCODING.as_str()).unwrap_or_default();
        request.coding = if native {
            Coding::Native
        } else if http_compression && accepts.split(',').any(|name| name.trim().eq_ignore_ascii_case("lz4")) {
            Coding::Lz4Frame
        } else {
            Coding::Plain
        };
        // The id goes into a header.
        if request.id.is_empty() || !request.id.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            request.id = uuid::Uuid::now_v7().to_string();
        }
        let url = (user.is_some() || password.is_some())
            .then(|| (user.unwrap_or_else(|| "default".to_owned()), password.unwrap_or_default()));
        Ok((request, Credentials::of(headers, url)?))
    }

    /// Takes a `param_…` or a setting.
    fn take(&mut self, name: String, value: String) -> Result<(), Exception> {
        if let Some(parameter) = name.strip_prefix("param_") {
            self.parameters.push((parameter.to_owned(), value));
        } else if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            self.settings.push((name, value));
        } else {
            return Err(Exception::new(
                code::UNKNOWN_SETTING,
                "UNKNOWN_SETTING",
                format!("Unknown setting {name:?}"),
            ));
        }
        Ok(())
    }

    /// Takes the fields of a form: `query` and parameters, as the `clickhouse` crate sends them.
    ///
    /// # Errors
    /// For files (external tables) and for a body that isn't the form it claims to be.
    pub(crate) fn take_form(&mut self, body: &[u8], boundary: &str) -> Result<(), Exception> {
        for (name, value) in form(body, boundary)? {
            let value = String::from_utf8(value.to_vec())
                .map_err(|_| bad(format!("the form's field {name:?} is not UTF-8")))?;
            if name == "query" {
                self.query.push_str(&value);
            } else {
                self.take(name, value)?;
            }
        }
        Ok(())
    }
}

fn bad(message: impl std::fmt::Display) -> Exception {
    Exception::new(code::BAD_ARGUMENTS, "BAD_ARGUMENTS", message)
}

fn flag(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("true")
}

fn boundary(content_type: &str) -> Option<String> {
    let (kind, rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    rest.split(';').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
    })
}

fn form<'b>(body: &'b [u8], boundary: &str) -> Result<Vec<(String, &'b [u8])>, Exception> {
    let broken = || bad("the multipart body is cut or doesn't follow its boundary");
    let find = |text: &[u8], needle: &[u8]| text.windows(needle.len()).position(|window| window == needle);
    let opening = format!("--{boundary}");
    let between = format!("\r\n--{boundary}");
    let mut rest = body.strip_prefix(opening.as_bytes()).ok_or_else(broken)?;
    let mut fields = Vec::new();
    while !rest.starts_with(b"--") {
        rest = rest.strip_prefix(b"\r\n").ok_or_else(broken)?;
        let head = find(rest, b"\r\n\r\n").ok_or_else(broken)?;
        let headers = String::from_utf8_lossy(&rest[..head]).into_owned();
        rest = &rest[head + 4..];
        let end = find(rest, between.as_bytes()).ok_or_else(broken)?;
        if headers.contains("filename=") {
            let message = "external tables (files in a multipart body) are not supported here";
            return Err(Exception::new(code::NOT_IMPLEMENTED, "NOT_IMPLEMENTED", message));
        }
        let name =
            headers.split_once("name=\"").and_then(|(_, tail)| tail.split_once('"')).ok_or_else(broken)?.0;
        fields.push((name.to_owned(), &rest[..end]));
        rest = &rest[end + between.len()..];
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str) -> Result<Request, Exception> {
        Request::parse(&Method::POST, &uri.parse().expect("a URI"), &HeaderMap::new())
            .map(|(request, _)| request)
    }

    #[test]
    fn sorts_the_parameters() {
        let request =
            parse("/?query=SELECT+%7Bx%3AInt8%7D&param_x=1&max_threads=2&database=d&default_format=CSV")
                .expect("parses");
        assert_eq!(request.query, "SELECT {x:Int8}");
        assert_eq!(request.parameters, [("x".to_owned(), "1".to_owned())]);
        assert_eq!(request.settings, [("max_threads".to_owned(), "2".to_owned())]);
        assert_eq!((request.database.as_deref(), request.format.as_str()), (Some("d"), "CSV"));
    }

    #[test]
    fn names_what_it_cannot_honour() {
        let code = |uri: &str| parse(uri).err().map(|exception| exception.code);
        assert_eq!(code("/?session_id=a"), Some(48));
        assert_eq!(code("/?a%3D1%2Cb=2"), Some(115));
        assert_eq!(code("/?client_protocol_version=x"), Some(36));
    }

    #[test]
    fn reads_a_form() {
        let mut request = parse("/").expect("parses");
        let body = b"--B\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT\r\n1\r\n--B\r\n\
            Content-Disposition: form-data; name=\"param_a\"\r\n\r\n\r\n--B--\r\n";
        request.take_form(body, "B").expect("a form");
        assert_eq!(request.query, "SELECT\r\n1");
        assert_eq!(request.parameters, [("a".to_owned(), String::new())]);
        assert!(request.take_form(&body[..60], "B").is_err());
        assert_eq!(boundary("multipart/form-data; boundary=\"x y\"").as_deref(), Some("x y"));
    }
}

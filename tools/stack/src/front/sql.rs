//! Just enough of ClickHouse's lexer to route a statement: where an INSERT's data begins, what a query's
//! output format is, whether it only reads. It never rewrites SQL and judges no syntax: the engine does.

use std::ops::Range;

use super::error::{Exception, code};

/// Table functions that reach files, programs or other hosts. A reader must not call them: the embedded
/// engine, unlike the server, doesn't confine `file()` to a folder.
const OUTSIDE: &[&str] = &[
    "azureblobstorage",
    "cluster",
    "deltalake",
    "executable",
    "file",
    "filecluster",
    "gcs",
    "hdfs",
    "hdfscluster",
    "hudi",
    "iceberg",
    "input",
    "jdbc",
    "mongodb",
    "mysql",
    "odbc",
    "postgresql",
    "python",
    "redis",
    "remote",
    "remotesecure",
    "s3",
    "s3cluster",
    "sqlite",
    "url",
    "urlcluster",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Quoted,
    Open,
    Close,
    Semicolon,
    Other,
}

/// Splits text into tokens, skipping blanks and comments. Ends at the end of the text, and at a string or
/// comment that the text leaves open (`cut`).
struct Lexer<'t> {
    text: &'t [u8],
    at: usize,
    cut: bool,
}

impl<'t> Lexer<'t> {
    fn new(text: &'t [u8]) -> Self {
        Self { text, at: 0, cut: false }
    }

    fn rest(&self) -> &'t [u8] {
        &self.text[self.at..]
    }

    /// Moves beyond the next `needle`, or to the end.
    fn skip_past(&mut self, needle: &[u8], from: usize) {
        let start = (self.at + from).min(self.text.len());
        match self.text[start..].windows(needle.len()).position(|window| window == needle) {
            Some(position) => self.at = start + position + needle.len(),
            None => {
                self.at = self.text.len();
                self.cut = true;
            }
        }
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            if rest.first().is_some_and(|byte| byte.is_ascii_whitespace() || *byte == 0x0b) {
                self.at += 1;
            } else if rest.starts_with(b"/*") {
                self.skip_past(b"*/", 2);
            } else if rest.starts_with(b"--") || rest.starts_with(b"# ") || rest.starts_with(b"#!") {
                self.skip_past(b"\n", 0);
            } else {
                return;
            }
        }
    }

    fn skip_quoted(&mut self, quote: u8) {
        self.at += 1;
        while let Some(&byte) = self.text.get(self.at) {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == quote {
                return;
            }
        }
        self.at = self.text.len();
        self.cut = true;
    }

    /// `$tag$ … $tag$`; `false` when what stands here isn't one.
    fn skip_heredoc(&mut self) -> bool {
        let rest = self.rest();
        let tag =
            rest[1..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count() + 2;
        if rest.get(tag - 1) != Some(&b'$') {
            return false;
        }
        let opening = &rest[..tag];
        self.skip_past(opening, tag);
        true
    }

    fn next(&mut self) -> Option<(Kind, Range<usize>)> {
        self.skip_blanks();
        let start = self.at;
        let byte = *self.text.get(start)?;
        let kind = match byte {
            b'\'' | b'"' | b'`' => {
                self.skip_quoted(byte);
                Kind::Quoted
            }
            b'$' if self.skip_heredoc() => Kind::Quoted,
            _ if is_word(byte) => {
                self.at += self.rest().iter().take_while(|byte| is_word(**byte)).count();
                Kind::Word
            }
            b'(' | b'[' | b'{' => self.one(Kind::Open),
            b')' | b']' | b'}' => self.one(Kind::Close),
            b';' => self.one(Kind::Semicolon),
            _ => self.one(Kind::Other),
        };
        Some((kind, start..self.at))
    }

    fn one(&mut self, kind: Kind) -> Kind {
        self.at += 1;
        kind
    }

    fn is(&self, range: &Range<usize>, word: &str) -> bool {
        self.text[range.clone()].eq_ignore_ascii_case(word.as_bytes())
    }

    fn is_any(&self, range: &Range<usize>, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(range, word))
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// What the beginning of a request's text turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Not to be told yet: more text is needed.
    More,
    /// Anything but an INSERT with data.
    Other,
    /// An INSERT whose data follows.
    Insert(Insert),
}

/// An INSERT with data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Insert {
    /// Where the statement ends, before its `FORMAT` or `VALUES`.
    pub(crate) statement: usize,
    /// The data's format.
    pub(crate) format: String,
    /// Where the data begins.
    pub(crate) data: usize,
}

/// Looks at the text so far; `complete` when there will be no more.
pub(crate) fn head(text: &[u8], complete: bool) -> Head {
    let mut lexer = Lexer::new(text);
    let unsure = if complete { Head::Other } else { Head::More };
    match lexer.next() {
        // The word may go on where the text stops.
        Some((_, range)) if range.end == text.len() && !complete => return Head::More,
        Some((Kind::Word, range)) if lexer.is(&range, "INSERT") => {}
        None => return unsure,
        Some(_) => return Head::Other,
    }
    let mut depth = 0_usize;
    let mut named = false;
    let mut after_open = false;
    while let Some((kind, range)) = lexer.next() {
        if range.end == text.len() && !complete {
            return Head::More;
        }
        let inside = std::mem::replace(&mut after_open, kind == Kind::Open);
        match kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            Kind::Word
                if depth == 1 && inside && (lexer.is(&range, "SELECT") || lexer.is(&range, "WITH")) =>
            {
                return Head::Other;
            }
            Kind::Word if depth == 0 && !named && lexer.is_any(&range, &["INTO", "TABLE", "FUNCTION"]) => {}
            Kind::Word | Kind::Quoted if depth == 0 && !named => {
                named = true;
                skip_name(&mut lexer);
            }
            Kind::Word if depth == 0 => {
                if lexer.is(&range, "VALUES") {
                    return Head::Insert(Insert {
                        statement: range.start,
                        format: "Values".to_owned(),
                        data: range.end,
                    });
                }
                if lexer.is(&range, "FORMAT") {
                    return format_clause(&mut lexer, range.start, complete);
                }
                if lexer.is_any(&range, &["SELECT", "WITH", "FROM", "WATCH", "EXPLAIN"]) {
                    return Head::Other;
                }
            }
            Kind::Semicolon if depth == 0 => return Head::Other,
            _ => {}
        }
    }
    unsure
}

/// Skips the rest of `database.table`.
fn skip_name(lexer: &mut Lexer<'_>) {
    loop {
        let before = lexer.at;
        match lexer.next() {
            Some((Kind::Other, range)) if lexer.text[range.clone()] == *b"." => {
                lexer.next();
            }
            _ => {
                lexer.at = before;
                return;
            }
        }
    }
}

/// After `FORMAT`: its name, and the data behind the blanks and one line feed.
fn format_clause(lexer: &mut Lexer<'_>, statement: usize, complete: bool) -> Head {
    let Some((Kind::Word, range)) = lexer.next() else {
        return if complete { Head::Other } else { Head::More };
    };
    let rest = &lexer.text[range.end..];
    let mut blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | 0x0b | 0x0c)).count();
    if rest.get(blanks) == Some(&b'\r') {
        blanks += 1;
    }
    match rest.get(blanks) {
        Some(b'\n') => blanks += 1,
        Some(_) => {}
        None if complete => {}
        None => return Head::More,
    }
    let format = String::from_utf8_lossy(&lexer.text[range.clone()]).into_owned();
    Head::Insert(Insert { statement, format, data: range.end + blanks })
}

/// How a whole statement is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// A SELECT: its result can be streamed.
    Select,
    /// Reads, but the engine gives its result in one piece: SHOW, DESCRIBE, EXPLAIN …
    Read,
    /// May change something.
    Write,
}

/// A statement that isn't an INSERT with data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) verb: Verb,
    /// The name in its FORMAT clause.
    pub(crate) format: Option<String>,
    /// A function it calls that reaches outside the database.
    pub(crate) outside: Option<String>,
}

/// Reads a whole statement.
///
/// # Errors
/// Code 62 for nothing at all or for several statements; 358 and 78 for files of the server's machine
/// (`INTO OUTFILE`, `FROM INFILE`), which are the client's business; 48 for `input()`, whose data the
/// embedded engine drops without a word.
pub(crate) fn query(text: &[u8]) -> Result<Query, Exception> {
    let mut lexer = Lexer::new(text);
    let mut tokens: Vec<(Kind, Range<usize>)> = Vec::new();
    while let Some(token) = lexer.next() {
        tokens.push(token);
    }
    while tokens.last().is_some_and(|(kind, _)| *kind == Kind::Semicolon) {
        tokens.pop();
    }
    let word = |index: usize, expected: &str| {
        tokens.get(index).is_some_and(|(kind, range)| *kind == Kind::Word && lexer.is(range, expected))
    };
    if tokens.is_empty() {
        return Err(Exception::new(code::SYNTAX_ERROR, "SYNTAX_ERROR", "Empty query"));
    }
    let (mut depth, mut inserts) = (0_usize, false);
    let (mut format, mut outside) = (None, None);
    for (index, (kind, range)) in tokens.iter().enumerate() {
        match kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            Kind::Semicolon if depth == 0 => {
                let message = "Multi-statements are not allowed: send one statement a request";
                return Err(Exception::new(code::SYNTAX_ERROR, "SYNTAX_ERROR", message));
            }
            Kind::Word | Kind::Quoted
                if tokens.get(index + 1).is_some_and(|(kind, _)| *kind == Kind::Open) =>
            {
                let name = String::from_utf8_lossy(&text[range.clone()]);
                let name = name.trim_matches(['`', '"']).to_ascii_lowercase();
                if OUTSIDE.contains(&name.as_str()) {
                    outside = Some(name);
                }
            }
            Kind::Word if depth == 0 => {
                inserts |= word(index, "INSERT");
                if word(index, "OUTFILE") && index > 0 && word(index - 1, "INTO") {
                    let message =
                        "INTO OUTFILE is not allowed over HTTP: write the response to a file instead";
                    return Err(Exception::new(
                        code::INTO_OUTFILE_NOT_ALLOWED,
                        "INTO_OUTFILE_NOT_ALLOWED",
                        message,
                    ));
                }
                if word(index, "INFILE") && index > 0 && word(index - 1, "FROM") {
                    let message = "FROM INFILE is not allowed over HTTP: send the data as the request's body";
                    return Err(Exception::new(
                        code::UNKNOWN_TYPE_OF_QUERY,
                        "UNKNOWN_TYPE_OF_QUERY",
                        message,
                    ));
                }
                let ends = index + 2 >= tokens.len() || word(index + 2, "SETTINGS");
                if let Some((Kind::Word, name)) = tokens.get(index + 1)
                    && word(index, "FORMAT")
                    && ends
                {
                    format = Some(String::from_utf8_lossy(&text[name.clone()]).into_owned());
                }
            }
            _ => {}
        }
    }
    let calls_input =
        |pair: &[(Kind, Range<usize>)]| lexer.is(&pair[0].1, "input") && pair[1].0 == Kind::Open;
    if inserts && tokens.windows(2).any(calls_input) {
        let message =
            "INSERT ... SELECT ... FROM input() is not supported here: insert into a staging table first";
        return Err(Exception::new(code::NOT_IMPLEMENTED, "NOT_IMPLEMENTED", message));
    }
    let first = |words: &[&str]| words.iter().any(|expected| word(0, expected));
    let verb = if inserts {
        Verb::Write
    } else if first(&["SELECT", "WITH", "FROM"]) || tokens[0].0 == Kind::Open {
        Verb::Select
    } else if first(&["SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "CHECK", "SET", "USE"]) {
        Verb::Read
    } else {
        Verb::Write
    };
    Ok(Query { verb, format, outside })
}

/// `name` as an identifier in backticks.
pub(crate) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// `value` as a string literal.
pub(crate) fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(text: &str) -> Option<(&str, String, &str)> {
        match head(text.as_bytes(), true) {
            Head::Insert(found) => Some((&text[..found.statement], found.format, &text[found.data..])),
            _ => None,
        }
    }

    #[test]
    fn finds_where_data_begins() {
        let check = |text: &str, statement: &str, format: &str, data: &str| {
            assert_eq!(insert(text), Some((statement, format.to_owned(), data)), "{text}");
        };
        check("INSERT INTO t(a,b) FORMAT RowBinary\n\0\n", "INSERT INTO t(a,b) ", "RowBinary", "\0\n");
        check("insert into t values (1), ('FORMAT')", "insert into t ", "Values", " (1), ('FORMAT')");
        check("INSERT INTO d.values VALUES(1)", "INSERT INTO d.values ", "Values", "(1)");
        check("INSERT INTO `for``mat` FORMAT CSV 1,2", "INSERT INTO `for``mat` ", "CSV", "1,2");
        check(
            "INSERT INTO t SETTINGS async_insert=0 FORMAT JSONEachRow {\"a\":1}",
            "INSERT INTO t SETTINGS async_insert=0 ",
            "JSONEachRow",
            "{\"a\":1}",
        );
        check(
            "/* x */ INSERT INTO t -- FORMAT A\n FORMAT TSV \r\n1",
            "/* x */ INSERT INTO t -- FORMAT A\n ",
            "TSV",
            "1",
        );
        check(
            "INSERT INTO FUNCTION null('a Int32') VALUES (1)",
            "INSERT INTO FUNCTION null('a Int32') ",
            "Values",
            " (1)",
        );
    }

    #[test]
    fn knows_an_insert_without_data() {
        for text in [
            "INSERT INTO t SELECT 1",
            "INSERT INTO t (SELECT 1)",
            "INSERT INTO t (a) WITH 1 AS x SELECT x",
            "SELECT 1",
        ] {
            assert_eq!(head(text.as_bytes(), true), Head::Other, "{text}");
        }
    }

    #[test]
    fn waits_for_the_rest() {
        for text in [
            "",
            "INS",
            "INSERT INTO t",
            "INSERT INTO t FORM",
            "INSERT INTO t FORMAT CS",
            "INSERT INTO t FORMAT CSV ",
            "-- c",
        ] {
            assert_eq!(head(text.as_bytes(), false), Head::More, "{text}");
        }
    }

    #[test]
    fn reads_a_query() {
        let check = |text: &str, verb: Verb, format: Option<&str>| {
            let found = query(text.as_bytes()).expect("a query");
            assert_eq!((found.verb, found.format.as_deref()), (verb, format), "{text}");
        };
        check("SELECT 'x; FORMAT JSON' AS format FROM t;", Verb::Select, None);
        check("(SELECT 1) UNION ALL (SELECT 2) FORMAT TSV;\n", Verb::Select, Some("TSV"));
        check("SELECT 1 FORMAT JSON SETTINGS max_threads = 1", Verb::Select, Some("JSON"));
        check("SELECT formatReadableSize(1), $h$ ; $h$", Verb::Select, None);
        check("DESCRIBE TABLE t", Verb::Read, None);
        check("WITH 1 AS x INSERT INTO t SELECT x", Verb::Write, None);
        check("CREATE TABLE t (a Int32) ENGINE = Memory", Verb::Write, None);
    }

    #[test]
    fn refuses_what_http_has_no_place_for() {
        let code = |text: &str| query(text.as_bytes()).err().map(|exception| exception.code);
        assert_eq!(code("SELECT 1; SELECT 2"), Some(62));
        assert_eq!(code(" -- nothing"), Some(62));
        assert_eq!(code("SELECT 1 INTO OUTFILE 'x'"), Some(358));
        assert_eq!(code("INSERT INTO t FROM INFILE 'x'"), Some(78));
        assert_eq!(code("INSERT INTO t SELECT a FROM input('a Int8') FORMAT CSV\n1"), Some(48));
        assert_eq!(
            query(b"SELECT * FROM `file`('/etc/passwd')").expect("a query").outside.as_deref(),
            Some("file")
        );
    }

    #[test]
    fn quotes() {
        assert_eq!(identifier("a`b\\"), "`a\\`b\\\\`");
        assert_eq!(literal("it's\\"), "'it\\'s\\\\'");
    }
}

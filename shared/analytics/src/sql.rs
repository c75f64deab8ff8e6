//! Statements out of a migration's file: comments dropped, split at semicolons, placeholders filled in.
//!
//! ClickHouse's HTTP interface takes one statement a request. A semicolon inside a quoted text, a quoted name or a
//! comment ends nothing.

/// The statements of a file, in order, without their semicolons; a comment alone is none.
pub(crate) fn statements(text: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut current = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\'' | '"' | '`' => quoted_length(rest, c),
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + "*/".len()),
            _ => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        match token {
            ";" => push(&mut statements, &mut current),
            // A comment separates words as a space does.
            token if token.starts_with("--") || token.starts_with("/*") => current.push(' '),
            token => current.push_str(token),
        }
    }
    push(&mut statements, &mut current);
    statements
}

fn push(statements: &mut Vec<String>, current: &mut String) {
    let statement = current.trim();
    if !statement.is_empty() {
        statements.push(statement.to_owned());
    }
    current.clear();
}

/// Bytes from the opening quote to the closing one; a backslash or a doubled quote escapes. To the end where it is open:
/// the server then names the place.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = characters.next() {
        if c == '\\' {
            characters.next();
        } else if c == quote {
            if characters.peek().is_some_and(|(_, next)| *next == quote) {
                characters.next();
            } else {
                return at + quote.len_utf8();
            }
        }
    }
    text.len()
}

/// Puts values in the place of `${name}`. The caller has checked that a value is safe where its placeholder stands.
pub(crate) fn fill(text: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
}

/// A name as it may stand in a statement, whatever is in it.
pub(crate) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_split_at_its_semicolons() {
        assert_eq!(statements("SELECT 1;\nSELECT 2 ; \n"), ["SELECT 1", "SELECT 2"]);
        assert_eq!(statements("SELECT 1"), ["SELECT 1"]);
        assert!(statements(" -- nothing; here\n ; /* nor; here */ ;").is_empty());
    }

    #[test]
    fn a_semicolon_in_a_text_a_name_or_a_comment_ends_nothing() {
        for statement in [
            "SELECT 'a;b'",
            r"SELECT 'it\'s; so'",
            "SELECT 'it''s; so'",
            r#"SELECT "a;b""#,
            "SELECT `a;b`",
            r"SELECT '\\'",
        ] {
            assert_eq!(statements(&format!("{statement};SELECT 2")), [statement, "SELECT 2"]);
        }
        assert_eq!(
            statements("SELECT 1 -- one; two\n+ 1; SELECT/* 'x;y' */2"),
            ["SELECT 1  \n+ 1", "SELECT 2"]
        );
        assert_eq!(statements("SELECT '--'; SELECT 1-1"), ["SELECT '--'", "SELECT 1-1"]);
    }

    #[test]
    fn every_place_of_a_name_is_filled() {
        assert_eq!(fill("${a}.t '${b}' ${a}", &[("a", "x"), ("b", "y")]), "x.t 'y' x");
    }

    #[test]
    fn a_name_stays_one_name() {
        assert_eq!(identifier("order.items-1"), "`order.items-1`");
        assert_eq!(identifier(r"a`) VALUES (1); DROP \"), r"`a\`) VALUES (1); DROP \\`");
    }
}

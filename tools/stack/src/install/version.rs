//! Versions as programs print them.

/// The first `a.b.c` in a text (`c` may be missing and is 0 then): `mysqld  Ver 9.7.4-2 for Linux`.
pub(super) fn first(text: &str) -> Option<(u32, u32, u32)> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(parse)
}

fn parse(word: &str) -> Option<(u32, u32, u32)> {
    let mut parts = word.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    let patch = parts.next().map_or(Some(0), |part| part.parse().ok())?;
    Some((major, minor, patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        let check = |text: &str, version| assert_eq!(first(text), version, "{text}");
        check("/usr/sbin/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))", Some((9, 7, 4)));
        check("mysqld  Ver 8.0.36 for Linux on x86_64 (Source distribution)", Some((8, 0, 36)));
        check("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime", Some((17, 0, 15)));
        check("ClickHouse server version 26.5.1.882 (official build).", Some((26, 5, 1)));
        check("cargo-lambda 1.9.2 (67129fc 2026-08-21Z)", Some((1, 9, 2)));
        check("kafka-clients-4.4.0.jar", Some((4, 4, 0)));
        check("no version 17 here", None);
    }
}

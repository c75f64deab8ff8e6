//! What an edge does with an error, and how it prints it.

/// What an edge does with an error: try again, put the record aside, or wake somebody up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The world was not ready (a service is down, a lock was held): the same work may succeed later.
    Retriable,
    /// The record itself is at fault: it fails again however often it is tried.
    Poison,
    /// Our own mistake or a wrong configuration: somebody has to look.
    Bug,
}

/// The error and its causes in one line, outermost first.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("page could not be read")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_names_every_cause_once_outermost_first() {
        let error = Outer(std::io::Error::other("connection reset"));

        assert_eq!(chain(&error), "page could not be read: connection reset");
    }
}

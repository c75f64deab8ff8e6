//! Why an operator's wish was not carried out.

/// Nothing has changed, unless [`OperatorError::Database`] came in the middle of many events: what was done until then
/// stands, and stands in the audit.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("mysql did not {operation}")]
    Database {
        operation: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error("relay group {group} is unknown: there {}", known_groups(.known))]
    UnknownGroup { group: String, known: Vec<String> },
    #[error("{field} is refused: wants {wants}")]
    Field { field: &'static str, wants: &'static str },
    #[error("nothing is selected: name events, or what they have in common, or say that all are meant")]
    NothingSelected,
    #[error(
        "{events} events are not known to be the last of their aggregates, such as {event_id}: readers never get version {version} of {aggregate_type} {aggregate_id}, and whatever follows comes without it; nothing was discarded, it has to be confirmed"
    )]
    BreaksOrder {
        events: usize,
        event_id: String,
        aggregate_type: String,
        aggregate_id: String,
        version: u32,
    },
}

impl OperatorError {
    pub(super) fn database(operation: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| Self::Database { operation, source }
    }
}

fn known_groups(groups: &[String]) -> String {
    match groups {
        [] => "is none, a relay's first run makes it".to_owned(),
        [only] => format!("is {only}"),
        several => format!("are {}", several.join(", ")),
    }
}

//! What can go wrong between us and ClickHouse, and what the caller should do about it.

use clickhouse::error::Error as ClickHouseError;
use outflow_columns::UnsupportedType;
use outflow_telemetry::ErrorKind;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum AnalyticsError {
    #[error("database name {name:?} is no plain identifier: use letters, digits and underscores")]
    DatabaseName { name: String },
    #[error("time zone {zone:?} is unknown to clickhouse: use an IANA name such as Asia/Seoul")]
    TimeZone { zone: String },
    #[error("clickhouse has no table {table}: run `outflow init`, or create it")]
    NoTable { table: String },
    #[error("no row can fill {table}.{column}")]
    ColumnType { table: String, column: String, source: UnsupportedType },
    #[error("rows of several tables or columns stand in one block: cut them by `blocks`")]
    MixedBlock,
    #[error("a block of {rows} rows was not inserted into {table}")]
    Insert { table: String, rows: usize, source: ClickHouseError },
    #[error("clickhouse did not finish within {} ms to {operation}", limit.as_millis())]
    Timeout { operation: &'static str, limit: Duration },
    #[error("clickhouse failed to {operation}")]
    Query { operation: &'static str, source: ClickHouseError },
    #[error("migration {name}, statement {statement}, failed")]
    Migrate { name: &'static str, statement: usize, source: ClickHouseError },
    #[error(
        "migration {name} was changed after it had been applied: put the change into a migration of its own \
         (applied sha256 {applied}, now {now})"
    )]
    MigrationChanged { name: &'static str, applied: String, now: String },
    #[error("database {database} has no schema yet: run `outflow init`")]
    NotInitialized { database: String },
}

impl AnalyticsError {
    /// Poison means: something in this block, so that halves of it can be tried.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Insert { source, .. } | Self::Query { source, .. } | Self::Migrate { source, .. } => {
                kind_of(source)
            }
            Self::Timeout { .. } => ErrorKind::Retriable,
            Self::DatabaseName { .. }
            | Self::TimeZone { .. }
            | Self::NoTable { .. }
            | Self::ColumnType { .. }
            | Self::MixedBlock
            | Self::MigrationChanged { .. }
            | Self::NotInitialized { .. } => ErrorKind::Bug,
        }
    }

    /// ClickHouse's own number for the error, where it told one.
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Insert { source, .. } | Self::Query { source, .. } | Self::Migrate { source, .. } => {
                code_of(source)
            }
            _ => None,
        }
    }
}

fn kind_of(error: &ClickHouseError) -> ErrorKind {
    use ClickHouseError as E;
    match error {
        E::BadResponse(text) => kind_of_response(text),
        // Types that do not fit the table: a migration is missing or one too many ran.
        E::SchemaMismatch(_) | E::InvalidParams(_) | E::Unsupported(_) | E::InvalidColumnsHeader(_) => {
            ErrorKind::Bug
        }
        // Whatever was cut, refused or lost on the way.
        _ => ErrorKind::Retriable,
    }
}

/// Sorts ClickHouse's numbers (`system.errors`). An unknown one is retried: a row is put aside only for an error that is
/// known to be the row's.
fn kind_of_response(text: &str) -> ErrorKind {
    match code_in(text) {
        // A block over the limit of partitions shares its number with a table that merges too slowly.
        Some(252) if text.contains("INSERT block") => ErrorKind::Poison,
        Some(code) => match code {
            // CANNOT_PARSE_TEXT _QUOTED_STRING _DATE _DATETIME, TYPE_MISMATCH, ARGUMENT_OUT_OF_BOUND,
            // CANNOT_CONVERT_TYPE, CANNOT_PARSE_NUMBER, INCORRECT_DATA, TOO_LARGE_STRING_SIZE, VALUE_IS_OUT_OF_RANGE,
            // CANNOT_INSERT_NULL, CANNOT_PARSE_UUID, DECIMAL_OVERFLOW, VIOLATED_CONSTRAINT, UNKNOWN_ELEMENT_OF_ENUM
            6 | 26 | 38 | 41 | 53 | 69 | 70 | 72 | 117 | 131 | 321 | 349 | 376 | 407 | 469 | 691 => {
                ErrorKind::Poison
            }
            // NO_SUCH_COLUMN_IN_TABLE, NOT_FOUND_COLUMN, UNKNOWN_IDENTIFIER, UNKNOWN_TABLE, SYNTAX_ERROR,
            // UNKNOWN_DATABASE, UNKNOWN_SETTING, READONLY, unknown users and passwords, ACCESS_DENIED,
            // AUTHENTICATION_FAILED
            8 | 10 | 16 | 36 | 46 | 47 | 60 | 62 | 81 | 115 | 164 | 192..=194 | 497 | 516 => ErrorKind::Bug,
            _ => ErrorKind::Retriable,
        },
        None => ErrorKind::Retriable,
    }
}

fn code_of(error: &ClickHouseError) -> Option<u32> {
    match error {
        ClickHouseError::BadResponse(text) => code_in(text),
        _ => None,
    }
}

/// The number in "Code: 60. DB::Exception: …".
fn code_in(text: &str) -> Option<u32> {
    let (_, after) = text.split_once("Code: ")?;
    let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    after[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: ClickHouseError, kind: ErrorKind) {
        let error = AnalyticsError::Insert { table: "t".to_owned(), rows: 1, source: error };
        assert_eq!(error.kind(), kind, "{error:?}");
    }

    fn response(text: &str) -> ClickHouseError {
        ClickHouseError::BadResponse(text.to_owned())
    }

    #[test]
    fn a_server_that_is_away_slow_or_busy_is_tried_again() {
        check(ClickHouseError::Network("connection refused".into()), ErrorKind::Retriable);
        check(ClickHouseError::TimedOut, ErrorKind::Retriable);
        check(response("502 Bad Gateway"), ErrorKind::Retriable);
        check(response("Code: 241. DB::Exception: (total) memory limit exceeded"), ErrorKind::Retriable);
        check(
            response(
                "Code: 252. DB::Exception: Too many parts (3000). Merges are processing significantly slower",
            ),
            ErrorKind::Retriable,
        );
    }

    #[test]
    fn a_row_that_the_table_refuses_is_put_aside() {
        check(response("Code: 469. DB::Exception: Constraint `x` is violated at row 3"), ErrorKind::Poison);
        check(
            response("Code: 252. DB::Exception: Too many partitions for single INSERT block (more than 100)"),
            ErrorKind::Poison,
        );
    }

    #[test]
    fn our_own_mistakes_are_told_as_such() {
        check(response("Code: 60. DB::Exception: Table analytics.x does not exist"), ErrorKind::Bug);
        check(response("Code: 516. DB::Exception: Authentication failed"), ErrorKind::Bug);
        check(ClickHouseError::SchemaMismatch("column y".to_owned()), ErrorKind::Bug);
    }
}

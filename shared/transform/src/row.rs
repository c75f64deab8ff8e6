//! From a module's rows to JSON objects: cells checked, the host's columns stamped.

use crate::{
    Digest, Event, Generation, Rejection, Row, Stage, Stamp,
    bindings::outflow::transform::types as wire,
    cells::{is_uuid, write_millis, write_string},
    schema::{Schema, Table},
};

/// Aggregate versions from here on would push a row's version to 2^63, which JSON readers can't be trusted
/// with.
const AGGREGATE_VERSION_LIMIT: u64 = 1 << (63 - Generation::BITS);

/// Builds the rows of one batch.
pub(crate) struct Stamper<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) digest: &'a Digest,
    pub(crate) stamp: Stamp,
    /// Bytes that a row may have as JSON.
    pub(crate) row_bytes: usize,
}

impl Stamper<'_> {
    /// Every row of an event, or the reason why the event is rejected: no part of an event is written.
    pub(crate) fn rows(&self, event: &Event, rows: &[wire::Row]) -> Result<Vec<Row>, Rejection> {
        let version = version(event.aggregate_version, self.stamp.generation).ok_or_else(|| {
            let message = format!(
                "aggregate version {} is outside 1..{AGGREGATE_VERSION_LIMIT}",
                event.aggregate_version
            );
            rejection("aggregate_version", message)
        })?;
        if !is_uuid(&event.id) {
            return Err(rejection("event_id", format!("event id '{}' is no UUID", event.id)));
        }
        rows.iter()
            .map(|row| {
                let Some(table) = self.schema.tables.get(usize::from(row.table)) else {
                    let message = format!("table {} of {}", row.table, self.schema.tables.len());
                    return Err(rejection("unknown_table", message));
                };
                let json = self.json(event, version, table, &row.values)?;
                if json.len() > self.row_bytes {
                    let (found, limit) = (json.len(), self.row_bytes);
                    return Err(rejection(
                        "row_too_large",
                        format!("{found} bytes, at most {limit} are possible"),
                    ));
                }
                Ok(Row { table: table.name.clone(), json })
            })
            .collect()
    }

    fn json(
        &self,
        event: &Event,
        version: u64,
        table: &Table,
        values: &[wire::Value],
    ) -> Result<Vec<u8>, Rejection> {
        if values.len() != table.columns.len() {
            let message =
                format!("{} values for the {} columns of {}", values.len(), table.columns.len(), table.name);
            return Err(rejection("wrong_column_count", message));
        }
        /// An analytics row with its digest, ids and times is about this long.
        const TYPICAL_LEN: usize = 640;
        let mut out = Vec::with_capacity(TYPICAL_LEN);
        out.push(b'{');
        for (column, value) in table.columns.iter().zip(values) {
            key(&column.name, &mut out);
            column.column_type.write(value, &mut out).map_err(|e| {
                rejection("cell_does_not_fit", format!("column {}.{}: {e}", table.name, column.name))
            })?;
            out.push(b',');
        }
        key("version", &mut out);
        out.extend_from_slice(version.to_string().as_bytes());
        out.extend_from_slice(b",\"is_deleted\":0,");
        key("event_id", &mut out);
        write_string(&event.id, &mut out);
        out.push(b',');
        key("transform_digest", &mut out);
        write_string(self.digest.as_str(), &mut out);
        for (name, micros) in [
            ("occurred_at", event.occurred_at_us),
            ("relayed_at", event.relayed_at_us),
            ("transformed_at", self.stamp.transformed_at_us),
        ] {
            out.push(b',');
            key(name, &mut out);
            write_millis(micros, &mut out);
        }
        out.push(b'}');
        Ok(out)
    }
}

/// `"name":`; names were checked to be plain, so nothing needs escaping.
fn key(name: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// The version of a row: the aggregate's above the generation, so that a newer state always wins, and of one
/// state the later activation.
fn version(aggregate_version: u64, generation: Generation) -> Option<u64> {
    (1..AGGREGATE_VERSION_LIMIT)
        .contains(&aggregate_version)
        .then(|| (aggregate_version << Generation::BITS) | u64::from(generation.get()))
}

fn rejection(code: &str, message: String) -> Rejection {
    Rejection { stage: Stage::Row, code: code.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_newer_state_wins_and_of_one_state_the_later_activation(
            a in (1_u64..AGGREGATE_VERSION_LIMIT, 1_u32..1 << 24),
            b in (1_u64..AGGREGATE_VERSION_LIMIT, 1_u32..1 << 24),
        ) {
            let of = |(state, generation): (u64, u32)| {
                version(state, Generation::new(generation).expect("in range")).expect("in range")
            };
            prop_assert_eq!(a.cmp(&b), of(a).cmp(&of(b)));
            prop_assert!(of(a) < 1 << 63);
        }
    }

    #[test]
    fn a_version_that_would_overflow_is_refused() {
        assert_eq!(version(AGGREGATE_VERSION_LIMIT - 1, Generation::MAX), Some((1 << 63) - 1));
        assert_eq!(version(AGGREGATE_VERSION_LIMIT, Generation::FIRST), None);
        assert_eq!(version(u64::MAX, Generation::FIRST), None);
        assert_eq!(version(0, Generation::FIRST), None);
    }
}

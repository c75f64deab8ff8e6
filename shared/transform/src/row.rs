//! From a module's rows to JSON objects: cells checked, the host's columns stamped.

use crate::{
    Digest, Event, Generation, Outcome, Rejection, Row, Rows, Stage, Stamp,
    cells::{Cell, WriteCell, is_uuid, write_millis, write_number, write_plain},
    schema::{Schema, Table},
};

/// Aggregate versions from here on would push a row's version to 2^63, which JSON readers can't be trusted
/// with.
const AGGREGATE_VERSION_LIMIT: u64 = 1 << (63 - Generation::BITS);
/// An analytics row with its digest, ids and times is about this long.
const TYPICAL_LEN: usize = 640;

/// Builds the rows of one batch.
#[derive(Clone, Copy)]
pub(crate) struct Stamper<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) stamp: Stamp,
    /// See [`same_in_each_row`].
    pub(crate) same: &'a [Vec<u8>; 3],
    /// Bytes that a row may have as JSON.
    pub(crate) row_bytes: usize,
    /// Rows that one event may become, and their bytes.
    pub(crate) rows_per_record: usize,
    pub(crate) record_bytes: usize,
    /// Bytes that the rows of all events may have.
    pub(crate) batch_bytes: usize,
}

/// The outcomes of a batch, in the order of its events, as long as their rows have room.
pub(crate) struct Outcomes {
    taken: Vec<Outcome>,
    bytes_left: usize,
}

impl Outcomes {
    pub(crate) fn within(bytes: usize, events: usize) -> Self {
        Self { taken: Vec::with_capacity(events), bytes_left: bytes }
    }

    /// False where there is no room: it and those behind it are for another batch. The first always has.
    pub(crate) fn take(&mut self, outcome: Outcome) -> bool {
        let bytes = outcome.bytes();
        if bytes > self.bytes_left && !self.taken.is_empty() {
            return false;
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.taken.push(outcome);
        true
    }

    pub(crate) fn into_vec(self) -> Vec<Outcome> {
        self.taken
    }
}

/// Builds the rows of one event: all of them, or the reason why the event is rejected.
///
/// After a rejection it goes on taking cells without looking at them: whoever reads them from bytes has to pass them.
pub(crate) struct EventRows<'a> {
    stamper: Stamper<'a>,
    event: &'a Event<'a>,
    version: u64,
    rows: Rows,
    bytes: usize,
    rejection: Option<Rejection>,
}

/// One row of it, cell by cell.
pub(crate) struct RowCells<'r, 'a> {
    rows: &'r mut EventRows<'a>,
    /// None where the row is not looked at any more.
    table: Option<&'a Table>,
    at: usize,
    json: Vec<u8>,
}

/// What the host's columns have in common in all rows of a batch: digest; time of the transformation and the mark of a row
/// that is no canary's, and of one that is.
pub(crate) fn same_in_each_row(digest: &Digest, stamp: Stamp) -> [Vec<u8>; 3] {
    let mut time = Vec::new();
    write_millis(stamp.transformed_at_us, &mut time);
    let end =
        |mark: &str| [b",\"transformed_at\":", &time[..], b",\"is_canary\":", mark.as_bytes(), b"}"].concat();
    [format!(",\"transform_digest\":\"{digest}\",\"occurred_at\":").into_bytes(), end("0"), end("1")]
}

impl<'a> Stamper<'a> {
    /// Begins the rows of an event, of which the module says how many there are.
    pub(crate) fn event(self, event: &'a Event<'a>, count: usize) -> EventRows<'a> {
        let mut rows =
            EventRows { stamper: self, event, version: 0, rows: Rows::new(), bytes: 0, rejection: None };
        let limit = self.rows_per_record;
        match version(event.aggregate_version, self.stamp.generation) {
            _ if count > limit => {
                rows.reject("too_many_rows", format!("{count} rows, at most {limit} are possible"));
            }
            None => {
                let message = format!(
                    "aggregate version {} is outside 1..{AGGREGATE_VERSION_LIMIT}",
                    event.aggregate_version
                );
                rows.reject("aggregate_version", message);
            }
            Some(_) if !is_uuid(event.id) => {
                rows.reject("event_id", format!("event id '{}' is no UUID", event.id));
            }
            Some(version) => {
                rows.version = version;
                rows.rows.reserve_exact(count);
            }
        }
        rows
    }
}

impl<'a> EventRows<'a> {
    /// Begins a row of the module's `table`-th table, with as many cells as the module says.
    pub(crate) fn row<'r>(&'r mut self, table: u16, cells: usize) -> RowCells<'r, 'a> {
        let schema = self.stamper.schema;
        let mut found = None;
        if self.rejection.is_none() {
            match schema.tables.get(usize::from(table)) {
                Some(table) if table.columns.len() == cells => found = Some(table),
                Some(table) => {
                    let message =
                        format!("{cells} values for the {} columns of {}", table.columns.len(), table.name);
                    self.reject("wrong_column_count", message);
                }
                None => self.reject("unknown_table", format!("table {table} of {}", schema.tables.len())),
            }
        }
        let json = if found.is_some() { Vec::with_capacity(TYPICAL_LEN) } else { Vec::new() };
        RowCells { rows: self, table: found, at: 0, json }
    }

    pub(crate) fn end(self) -> Outcome {
        match self.rejection {
            Some(rejection) => Outcome::Reject(rejection),
            None => Outcome::Rows(self.rows),
        }
    }

    fn reject(&mut self, code: &str, message: String) {
        self.rows = Rows::new();
        self.rejection = Some(Rejection { stage: Stage::Row, code: code.to_owned(), message });
    }
}

impl RowCells<'_, '_> {
    pub(crate) fn cell(&mut self, cell: Cell<'_>) {
        let Some(table) = self.table else { return };
        let column = &table.columns[self.at];
        self.json.extend_from_slice(&table.keys[self.at]);
        self.at += 1;
        if let Err(error) = column.column_type.write(cell, &mut self.json) {
            self.rows.reject("cell_does_not_fit", format!("column {}.{}: {error}", table.name, column.name));
            self.table = None;
        }
    }

    /// Stamps the host's columns. `row` was told how many cells there are, and each was given.
    pub(crate) fn end(self) {
        let Self { rows, table: Some(table), mut json, .. } = self else { return };
        let EventRows { stamper, event, version, .. } = rows;
        json.extend_from_slice(b",\"version\":");
        write_number(*version, &mut json);
        json.extend_from_slice(b",\"is_deleted\":0,\"event_id\":");
        write_plain(event.id, &mut json);
        json.extend_from_slice(&stamper.same[0]);
        write_millis(event.occurred_at_us, &mut json);
        json.extend_from_slice(b",\"relayed_at\":");
        write_millis(event.relayed_at_us, &mut json);
        json.extend_from_slice(&stamper.same[if event.is_canary { 2 } else { 1 }]);
        if json.len() > stamper.row_bytes {
            let message = format!("{} bytes, at most {} are possible", json.len(), stamper.row_bytes);
            return rows.reject("row_too_large", message);
        }
        rows.bytes += json.len();
        if rows.bytes > stamper.record_bytes {
            let message = format!(
                "{} bytes in {} rows, at most {} are possible",
                rows.bytes,
                rows.rows.len() + 1,
                stamper.record_bytes
            );
            return rows.reject("rows_too_large", message);
        }
        rows.rows.push(Row { table: table.name.clone(), json });
    }
}

/// The version of a row: the aggregate's above the generation, so that a newer state always wins, and of one
/// state the later activation.
fn version(aggregate_version: u64, generation: Generation) -> Option<u64> {
    (1..AGGREGATE_VERSION_LIMIT)
        .contains(&aggregate_version)
        .then(|| (aggregate_version << Generation::BITS) | u64::from(generation.get()))
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

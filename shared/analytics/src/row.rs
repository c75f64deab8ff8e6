//! A row as it travels in Kafka (a JSON object, the columns its fields) into what ClickHouse takes (RowBinary).
//!
//! One row's fault is told here, by its field, so that it costs nobody else a block.

use crate::{
    cells::{CellError, CellSeed, put_length, put_string, shown},
    table::Table,
    values::month,
};
use outflow_columns::Kind;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use std::{fmt, ops::Range, sync::Arc};

/// Why a record's value is no row of its table.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    #[error("the record has no value")]
    Empty,
    #[error("not a row of {table}, at {field}")]
    Json { table: String, field: String, source: serde_json::Error },
    #[error("{table}.{column} is in the row twice")]
    Twice { table: String, column: String },
    #[error("{table}.{column} is not for a row to fill: {reason}")]
    Unknown { table: String, column: String, reason: &'static str },
    #[error("{table}.{column} is missing, and the table has no default for it")]
    Missing { table: String, column: String },
    #[error("{table}.{column} does not fit")]
    Cell { table: String, column: String, source: CellError },
}

impl RowError {
    /// A short name for a dead letter's header.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Json { .. } | Self::Twice { .. } => "row_json",
            Self::Unknown { .. } => "unknown_column",
            Self::Missing { .. } => "missing_column",
            Self::Cell { source, .. } => source.code(),
        }
    }

    /// Another table of the same name might take the row: its columns may have changed since they were read.
    pub fn is_by_the_table(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Missing { .. } | Self::Cell { .. })
    }
}

/// Which of a table's columns a row's bytes hold. Rows of one layout can stand in one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) table: Arc<Table>,
    /// Columns that are left to their defaults, ascending; almost always none.
    left_out: Vec<usize>,
}

impl Layout {
    /// Names and types of the columns, in the order of the cells.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &crate::table::Column> {
        let columns = self.table.columns.iter().enumerate();
        columns.filter(|(at, _)| self.left_out.binary_search(at).is_err()).map(|(_, column)| column)
    }

    /// What stands before the rows in `RowBinaryWithNamesAndTypes`: ClickHouse holds it against the table, so that
    /// cells of a table that has changed since can't be taken for something else.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut header = Vec::new();
        put_length(self.columns().count(), &mut header);
        self.columns().for_each(|column| put_string(&column.name, &mut header));
        self.columns().for_each(|column| put_string(&column.column_type.to_string(), &mut header));
        header
    }
}

/// A row that fits its table, as bytes.
#[derive(Clone, Debug)]
pub struct EncodedRow {
    pub(crate) layout: Arc<Layout>,
    /// Equal for two rows of a table exactly where their partition is; 0 where the table's partitions aren't months.
    pub(crate) month: i32,
    pub(crate) bytes: Box<[u8]>,
}

impl EncodedRow {
    /// The table as it was when the row was encoded.
    pub fn table(&self) -> &Table {
        &self.layout.table
    }
}

/// Encodes rows of one table. It remembers in which order the last row's fields came: those of a module always come
/// in the same.
#[derive(Debug)]
pub struct RowEncoder {
    table: Arc<Table>,
    /// The cells of the row at hand, in the order of its fields, and where each column's are.
    cells: Vec<u8>,
    places: Vec<Option<Range<usize>>>,
    /// Columns in the order of the last row's fields.
    order: Vec<usize>,
    /// Those met so far. Rows that share one are found alike by their pointer.
    layouts: Vec<Arc<Layout>>,
}

impl RowEncoder {
    pub fn new(table: Arc<Table>) -> Self {
        let places = vec![None; table.columns.len()];
        Self { table, cells: Vec::new(), places, order: Vec::new(), layouts: Vec::new() }
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// Names the field that is missing, unknown, of another type or outside its range.
    pub fn encode(&mut self, value: &[u8]) -> Result<EncodedRow, RowError> {
        if value.is_empty() {
            return Err(RowError::Empty);
        }
        self.cells.clear();
        self.places.fill(None);
        let (mut failure, mut last) = (None, None);
        let mut json = serde_json::Deserializer::from_slice(value);
        let fields = Fields { encoder: self, failure: &mut failure, last: &mut last };
        let read = json.deserialize_map(fields).and_then(|()| json.end());
        match (failure, read) {
            (Some(failure), _) => Err(failure),
            (None, Ok(())) => self.assemble(),
            (None, Err(source)) => {
                let field = last.map_or("the beginning", |at: usize| self.table.columns[at].name.as_str());
                Err(RowError::Json { table: self.table.name.clone(), field: field.to_owned(), source })
            }
        }
    }

    /// The cells in the table's order.
    fn assemble(&mut self) -> Result<EncodedRow, RowError> {
        let mut bytes = Vec::with_capacity(self.cells.len());
        let mut left_out = Vec::new();
        for (at, (place, column)) in self.places.iter().zip(&self.table.columns).enumerate() {
            match place {
                Some(place) => bytes.extend_from_slice(&self.cells[place.clone()]),
                None if column.has_default => left_out.push(at),
                None => {
                    let (table, column) = (self.table.name.clone(), column.name.clone());
                    return Err(RowError::Missing { table, column });
                }
            }
        }
        let layout = self.layouts.iter().find(|layout| layout.left_out == left_out);
        let layout = layout.cloned().unwrap_or_else(|| {
            let layout = Arc::new(Layout { table: Arc::clone(&self.table), left_out });
            self.layouts.push(Arc::clone(&layout));
            layout
        });
        Ok(EncodedRow { layout, month: self.month(), bytes: bytes.into() })
    }

    fn month(&self) -> i32 {
        let Some(at) = self.table.month_of else { return 0 };
        let Kind::DateTime64(digits) = self.table.columns[at].column_type.kind() else { return 0 };
        let cell = self.places[at].clone().and_then(|place| self.cells[place].try_into().ok());
        // Where it is left to its default, all rows of the layout are in one month.
        cell.map_or(0, |ticks| month(i64::from_le_bytes(ticks).div_euclid(10_i64.pow(digits))))
    }
}

/// A row's fields, as JSON gives them.
struct Fields<'a> {
    encoder: &'a mut RowEncoder,
    failure: &'a mut Option<RowError>,
    /// The column of the last field that was begun.
    last: &'a mut Option<usize>,
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of columns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let RowEncoder { table, cells, places, order, .. } = self.encoder;
        let mut field = 0;
        while let Some(at) =
            map.next_key_seed(FieldName { table, guess: order.get(field).copied(), failure: self.failure })?
        {
            *self.last = Some(at);
            let column = &table.columns[at];
            if places[at].is_some() {
                let (table, column) = (table.name.clone(), column.name.clone());
                return fail(self.failure, RowError::Twice { table, column });
            }
            let (begin, mut failure) = (cells.len(), None);
            let gives_month = table.month_of == Some(at);
            let cell =
                map.next_value_seed(CellSeed { column, gives_month, out: cells, failure: &mut failure });
            if let Some(source) = failure {
                let (table, column) = (table.name.clone(), column.name.clone());
                return fail(self.failure, RowError::Cell { table, column, source });
            }
            cell?;
            places[at] = Some(begin..cells.len());
            match order.get_mut(field) {
                Some(guess) => *guess = at,
                None => order.push(at),
            }
            field += 1;
        }
        Ok(())
    }
}

/// The column that a field's name stands for.
struct FieldName<'a> {
    table: &'a Table,
    guess: Option<usize>,
    failure: &'a mut Option<RowError>,
}

impl<'de> DeserializeSeed<'de> for FieldName<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column's name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<usize, E> {
        if let Some(at) = self.guess
            && self.table.columns[at].name == name
        {
            return Ok(at);
        }
        if let Some(at) = self.table.find(name) {
            return Ok(at);
        }
        let (table, reason) = (self.table.name.clone(), self.table.refusal(name));
        fail(self.failure, RowError::Unknown { table, column: shown(name), reason })
    }
}

/// JSON's reader stops; what it says of it is of no interest.
fn fail<T, E: de::Error>(failure: &mut Option<RowError>, error: RowError) -> Result<T, E> {
    *failure = Some(error);
    Err(E::custom("no row of the table"))
}

#[cfg(test)]
mod tests;

//! Which rows may stand in one block: those of one table and layout, over no more partitions than ClickHouse takes. Pure.

use crate::row::{EncodedRow, Layout};
use std::{collections::BTreeMap, sync::Arc};

/// ClickHouse refuses a block that touches more (`max_partitions_per_insert_block`); ours are months.
pub const MAX_PARTITIONS_PER_BLOCK: usize = 100;

/// Cuts items into as few blocks as can be: almost always one a table. Order within a block stays.
pub fn blocks<T>(items: Vec<T>, row: impl Fn(&T) -> &EncodedRow) -> Vec<Vec<T>> {
    let mut groups: Vec<Group> = Vec::new();
    for item in &items {
        let row = row(item);
        let group = find(&groups, row).unwrap_or_else(|| {
            groups.push(Group { layout: Arc::clone(&row.layout), months: BTreeMap::new() });
            groups.len() - 1
        });
        groups[group].months.entry(row.month).or_insert(0);
    }
    let mut count = 0;
    for group in &mut groups {
        for (rank, block) in group.months.values_mut().enumerate() {
            *block = count + rank / MAX_PARTITIONS_PER_BLOCK;
        }
        count += group.months.len().div_ceil(MAX_PARTITIONS_PER_BLOCK);
    }
    let mut blocks: Vec<Vec<T>> = std::iter::repeat_with(Vec::new).take(count).collect();
    for item in items {
        let row = row(&item);
        let group = find(&groups, row).expect("each row was given a group above");
        let block = groups[group].months[&row.month];
        blocks[block].push(item);
    }
    blocks
}

/// Rows of one layout; the months they are of, each with its block.
struct Group {
    layout: Arc<Layout>,
    months: BTreeMap<i32, usize>,
}

fn find(groups: &[Group], row: &EncodedRow) -> Option<usize> {
    groups.iter().position(|group| same_layout(&group.layout, &row.layout))
}

/// Rows of one encoder share their layout; of two encoders, it may be equal.
pub(crate) fn same_layout(one: &Arc<Layout>, other: &Arc<Layout>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{row::RowEncoder, table::tests::table};

    fn encoder(name: &str) -> RowEncoder {
        let columns = [("at", "DateTime64(0, 'UTC')", ""), (name, "UInt8", "DEFAULT")];
        RowEncoder::new(Arc::new(table(&columns, "toYYYYMM(at)").expect("all types are carried")))
    }

    /// A row of the given month, counted from January 2000.
    fn row(encoder: &mut RowEncoder, month: i64, rest: &str) -> EncodedRow {
        let json =
            format!("{{\"at\": \"{:04}-{:02}-15 00:00:00\"{rest}}}", 2000 + month / 12, month % 12 + 1);
        encoder.encode(json.as_bytes()).expect("the row fits")
    }

    fn sizes(months: impl IntoIterator<Item = i64>) -> Vec<usize> {
        let mut encoder = encoder("n");
        let rows: Vec<_> = months.into_iter().map(|month| row(&mut encoder, month, "")).collect();
        blocks(rows, |row| row).iter().map(Vec::len).collect()
    }

    #[test]
    fn a_usual_batch_is_one_block_and_an_empty_one_none() {
        assert_eq!(sizes([1, 0, 1]), [3]);
        assert!(sizes([]).is_empty());
    }

    #[test]
    fn a_block_never_has_more_than_a_hundred_months() {
        assert_eq!(sizes(0..100), [100]);
        assert_eq!(sizes((0..101).chain(0..101)), [200, 2]);
        assert_eq!(sizes(0..250), [100, 100, 50]);
    }

    #[test]
    fn tables_and_layouts_have_blocks_of_their_own() {
        let (mut one, mut other) = (encoder("n"), encoder("m"));
        let rows = vec![
            ("one", row(&mut one, 0, "")),
            ("other", row(&mut other, 0, "")),
            ("one, whole", row(&mut one, 0, r#", "n": 1"#)),
            ("one again", row(&mut encoder("n"), 1, "")),
        ];

        let blocks = blocks(rows, |(_, row)| row);

        let names: Vec<Vec<_>> =
            blocks.iter().map(|block| block.iter().map(|(name, _)| *name).collect()).collect();
        assert_eq!(names, [vec!["one", "one again"], vec!["other"], vec!["one, whole"]]);
    }
}

//! Later events of parked aggregates that are written and that no relay has reached: behind the position, or in a gap.
//!
//! No index has the aggregates. So what is behind the position is passed over once, for all heads together, and without
//! a lock; whoever then changes something looks at what was written since, which is little.

use super::change::{self, Head};
use sqlx::{MySql, MySqlConnection, QueryBuilder};
use std::collections::{HashMap, HashSet};

/// What one pass has found.
#[derive(Debug, Default)]
pub(super) struct Followers {
    /// By the head's id: rows that stood behind the position, lowest ids first.
    behind: HashMap<u64, Vec<u64>>,
    /// Heads of which something had appeared in a gap.
    in_gaps: HashSet<u64>,
    /// The pass ended here.
    seen_to: u64,
}

/// Where rows are looked for.
#[derive(Clone, Copy)]
enum Where {
    Behind(u64),
    InGaps,
}

impl Followers {
    /// Passes over everything behind the position, however long that takes, and tells the heads how many follow them. In
    /// one snapshot, in which the heads were read, too.
    pub(super) async fn look(
        connection: &mut MySqlConnection,
        group: &str,
        heads: &mut [Head],
    ) -> Result<Self, sqlx::Error> {
        if heads.is_empty() {
            return Ok(Self::default());
        }
        let (position, last_id): (u64, u64) = sqlx::query_as(
            "SELECT position, (SELECT CAST(COALESCE(MAX(id), 0) AS UNSIGNED) FROM outbox)
             FROM outbox_position WHERE relay_group = ?",
        )
        .bind(group)
        .fetch_one(&mut *connection)
        .await?;
        let ids: Vec<u64> = heads.iter().map(|head| head.id).collect();
        let mut found = Self { seen_to: last_id, ..Self::default() };
        for (head, id) in find(connection, group, &ids, Where::Behind(position)).await? {
            found.behind.entry(head).or_default().push(id);
        }
        found.behind.values_mut().for_each(|ids| ids.sort_unstable());
        let appeared = find(connection, group, &ids, Where::InGaps).await?;
        found.in_gaps = appeared.iter().map(|(head, _)| *head).collect();
        found.tell(position, heads, &appeared);
        Ok(found)
    }

    /// Tells these heads how many follow them now. Under the group's lock nothing of it is parked meanwhile; what was
    /// committed since the pass is missed only where it has a lower id than a row that the pass has seen.
    pub(super) async fn count(
        &self,
        connection: &mut MySqlConnection,
        group: &str,
        position: u64,
        heads: &mut [Head],
    ) -> Result<(), sqlx::Error> {
        let ids: Vec<u64> = heads.iter().map(|head| head.id).collect();
        let mut since = find(connection, group, &ids, Where::Behind(position.max(self.seen_to))).await?;
        let in_gaps: Vec<u64> = ids.into_iter().filter(|id| self.in_gaps.contains(id)).collect();
        since.extend(find(connection, group, &in_gaps, Where::InGaps).await?);
        self.tell(position, heads, &since);
        Ok(())
    }

    /// `others` are rows that the pass has not found behind the position.
    fn tell(&self, position: u64, heads: &mut [Head], others: &[(u64, u64)]) {
        let mut more: HashMap<u64, u64> = HashMap::new();
        for (head, _) in others {
            *more.entry(*head).or_default() += 1;
        }
        for head in heads {
            let known = self.behind.get(&head.id).map_or(&[][..], Vec::as_slice);
            // What the position has passed since then is parked, and counted there.
            let passed = known.partition_point(|id| *id <= position);
            head.unreached = (known.len() - passed) as u64 + more.get(&head.id).copied().unwrap_or(0);
        }
    }
}

/// Rows of the heads' aggregates behind them that are not parked: head and row. The order of the tables is said, for from
/// the parked ones MySQL would have to pass over the log once for each.
async fn find(
    connection: &mut MySqlConnection,
    group: &str,
    heads: &[u64],
    place: Where,
) -> Result<Vec<(u64, u64)>, sqlx::Error> {
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = QueryBuilder::<MySql>::new("SELECT h.id, o.id FROM ");
    match place {
        Where::Behind(_) => query.push("outbox o FORCE INDEX (PRIMARY)"),
        Where::InGaps => query.push(
            "outbox_gaps g STRAIGHT_JOIN outbox o FORCE INDEX (PRIMARY) ON o.id BETWEEN g.first_id AND g.last_id",
        ),
    };
    query
        .push(" STRAIGHT_JOIN outbox_failures h FORCE INDEX (outbox_failures_aggregate) ON h.relay_group = ")
        .push_bind(group.to_owned())
        .push(" AND h.aggregate_type = o.aggregate_type AND h.aggregate_id = o.aggregate_id AND h.id < o.id AND h.id IN ");
    change::push_ids(&mut query, heads.iter().copied());
    // Behind a position that has gone back stand the parked events' own rows, too.
    query.push(
        " LEFT JOIN outbox_failures p ON p.relay_group = h.relay_group AND p.id = o.id AND p.event_id = o.event_id
          WHERE p.id IS NULL AND ",
    );
    match place {
        Where::Behind(id) => query.push("o.id > ").push_bind(id),
        Where::InGaps => query.push("g.relay_group = ").push_bind(group.to_owned()),
    };
    query.build_query_as().persistent(false).fetch_all(connection).await
}

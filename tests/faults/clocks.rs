//! Time of day is MySQL's alone: a relay's own may be wrong.

use crate::{
    field::Field,
    process::{RelayProcess, RelayStart},
    writers::Writers,
};
use outflow_stack::workspace_root;
use outflow_tests::long;
use std::{
    path::Path,
    time::{Duration, SystemTime},
};

/// Seconds: three hours, two days.
const AHEAD: i64 = 3 * 3_600;
const BEHIND: i64 = -2 * 86_400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_whose_clocks_are_ahead_and_behind_carry_all_in_order() {
    let field = Field::shared().await;
    let writers = Writers::start(&field, 4).await;
    for _ in 0..if long() { 10 } else { 1 } {
        for clock_shift_s in [Some(AHEAD), Some(BEHIND), None] {
            let start = RelayStart { clock_shift_s, ..RelayStart::default() };
            let (one, another) = (field.relay_with(&start), field.relay());
            let token = field.token().await;
            field.until("the lease changes hands", async || field.token().await > token).await;
            if let Some(shift) = clock_shift_s {
                is_shown(&field, &one, shift).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            // Whoever holds the lease dies, or nobody does.
            another.kill().await;
            one.stop().await;
        }
    }
    writers.stop().await;

    for shift in [AHEAD, BEHIND] {
        // By itself: what waits is carried by a relay whose clock is wrong.
        field.write_backlog(10, 5).await;
        let relay = field.relay_with(&RelayStart { clock_shift_s: Some(shift), ..RelayStart::default() });
        is_shown(&field, &relay, shift).await;
        field.settle().await;
        field
            .until("rolled back ids are found dead", async || {
                field.number("SELECT COUNT(*) FROM outbox_gaps").await == 0
            })
            .await;
        relay.stop().await;
    }
    field.judge().await;
}

/// The relay has asked what time of day it is, and was shown another one: else the test would be about nothing.
async fn is_shown(field: &Field, relay: &RelayProcess, shift: i64) {
    const LATE: u64 = 600;
    let shown = || {
        let log = relay.log();
        let (_, told) = log.split_once("shown the time of day ")?;
        told.lines().next()?.parse::<i64>().ok()
    };
    field.until("the relay has read its clock", async || shown().is_some()).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let off = shown().unwrap() - shift - i64::try_from(now).unwrap();
    assert!(off.unsigned_abs() < LATE, "shown a time that is {off} s off a shift of {shift} s");
}

#[test]
fn the_core_reads_no_time_of_day() {
    fn look(folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            for name in ["SystemTime::", "::now_utc", "::now_local", "Utc::now", "Local::now"] {
                assert!(!text.contains(name), "{} reads the time of day by {name}", path.display());
            }
        }
    }
    look(&workspace_root().join("shared/outbox/src"));
}

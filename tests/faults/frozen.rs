//! Relays that stand still, and go on as if nothing had been.

use crate::{
    field::{Field, position_is_locked},
    process::RelayProcess,
    writers::Writers,
};
use outflow_tests::long;
use rand::{Rng, SeedableRng, rngs::StdRng};
use sqlx::{Connection, MySqlConnection};
use std::time::Duration;

/// An aggregate's events go one after the other: so many round trips are time enough to stop in the middle.
const AGGREGATES: u32 = 20;
const VERSIONS: u32 = 150;
/// Events behind the position of a relay that keeps up with the writers.
const FEW: i64 = 100;

/// Stops `relay` when it has published some of the events of a backlog, and not all.
async fn freeze_in_mid_publish(field: &Field, relay: &RelayProcess, random: &mut StdRng) {
    let before = field.records().await;
    field.write_backlog(AGGREGATES, VERSIONS).await;
    let some = random.random_range(1..u64::from(AGGREGATES * VERSIONS) / 4);
    field.until("some is published", async || field.records().await >= before + some).await;
    relay.freeze();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_stopped_past_its_lease_and_woken_in_mid_publish_is_fenced_and_repeats_at_most() {
    let field = Field::shared().await;
    let mut random = StdRng::seed_from_u64(field.seed);
    let writers = Writers::start(&field, 3).await;
    let sleeper = field.relay();
    let (wanted, mut caught, mut tries) = (if long() { 20 } else { 2 }, 0, 0);
    while caught < wanted {
        tries += 1;
        assert!(tries <= wanted * 10, "it was never late: {}", sleeper.log());
        freeze_in_mid_publish(&field, &sleeper, &mut random).await;
        if field.lease_is_free().await || backlog(&field).await < FEW {
            // It was quicker than we were: another time.
            sleeper.thaw();
            continue;
        }
        let (token, told) = (field.token().await, sleeper.log().len());
        let other = field.relay();
        field.until("another relay takes over", async || field.token().await > token).await;
        field.until("it carries what waits", async || backlog(&field).await < FEW).await;
        let token = field.token().await;
        sleeper.thaw();
        other.stop().await;
        // In the middle of a session, which cannot end well, or just at the end of one: then it goes on and has nothing to say.
        let is_late = async || sleeper.log().len() > told;
        field
            .until("the sleeper is late or goes on", async || is_late().await || field.token().await > token)
            .await;
        caught += u32::from(is_late().await);
    }
    writers.stop().await;

    // The sleeper is the only one left, and an ordinary relay again.
    field.settle().await;
    assert!(sleeper.log().contains("another relay took the lease"), "{}", sleeper.log());
    sleeper.stop().await;
    field.judge().await;
}

async fn backlog(field: &Field) -> i64 {
    field
        .number("SELECT CAST((SELECT MAX(id) FROM outbox) AS SIGNED) - CAST(MAX(position) AS SIGNED) FROM outbox_position")
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_frozen_between_two_drains_goes_on_where_the_others_are() {
    let field = Field::shared().await;
    let sleeper = field.relay();
    for _ in 0..if long() { 10 } else { 2 } {
        field.write_backlog(AGGREGATES, 3).await;
        field.settle().await;
        field.until("the lease is given back", async || field.lease_is_free().await).await;
        sleeper.freeze();

        let other = field.relay();
        let token = field.token().await;
        field.write_backlog(AGGREGATES, 3).await;
        field.until("the other one has the lease", async || field.token().await > token).await;
        field.settle().await;
        sleeper.thaw();
        field.write_backlog(AGGREGATES, 3).await;
        other.stop().await;

        field.settle().await;
    }
    sleeper.stop().await;
    field.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_frozen_while_it_moves_the_position_does_not_keep_the_others_out() {
    let field = Field::shared().await;
    field.write_backlog(1, 1).await;
    let sleeper = field.relay();
    field.settle().await;
    field
        .until("a checkpoint is there", async || {
            field.number("SELECT COUNT(*) FROM outbox_checkpoints").await > 0
        })
        .await;
    field.until("the lease is given back", async || field.lease_is_free().await).await;
    let mut holder = MySqlConnection::connect(&field.shop.database_url).await.unwrap();
    let mut looker = MySqlConnection::connect(&field.shop.database_url).await.unwrap();
    // No checkpoint can be written for now: a relay that moves waits in the middle of its transaction.
    let mut hold = holder.begin().await.unwrap();
    sqlx::query("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *hold).await.unwrap();
    hold.rollback().await.unwrap();
    let mut hold = holder.begin().await.unwrap();
    sqlx::query("SELECT position FROM outbox_checkpoints FOR UPDATE").fetch_all(&mut *hold).await.unwrap();
    field.write_backlog(1, 1).await;
    // Others lock the row for a moment; one that waits locks it for long.
    let mut locked = 0;
    field
        .until("the relay waits while it moves", async || {
            locked = if position_is_locked(&mut looker).await { locked + 1 } else { 0 };
            locked > 10
        })
        .await;
    sleeper.freeze();
    hold.rollback().await.unwrap();

    field.write_backlog(AGGREGATES, 3).await;
    let other = field.relay();
    field.settle().await;

    sleeper.thaw();
    other.stop().await;
    field.write_backlog(AGGREGATES, 3).await;
    tokio::time::timeout(Duration::from_secs(60), field.settle()).await.unwrap();
    sleeper.stop().await;
    field.judge().await;
}

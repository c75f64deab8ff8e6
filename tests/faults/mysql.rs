//! A MySQL that goes away in the middle of a batch.

use crate::{field::Field, writers::Writers};
use outflow_stack::Service;
use outflow_tests::long;
use rand::{Rng, SeedableRng, rngs::StdRng};

const AGGREGATES: u32 = 20;
const VERSIONS: u32 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_killed_and_stopped_in_mid_batch_holds_the_relay_up_and_no_longer_than_it_is_away() {
    let field = Field::alone().await;
    let stack = field.stack();
    let mut random = StdRng::seed_from_u64(field.seed);
    let writers = Writers::start(&field, 4).await;
    let relay = field.relay();
    for round in 0..if long() { 20 } else { 2 } {
        let before = field.records().await;
        field.write_backlog(AGGREGATES, VERSIONS).await;
        let some = random.random_range(1..u64::from(AGGREGATES * VERSIONS) / 2);
        field.until("some is published", async || field.records().await >= before + some).await;

        match round % 2 {
            0 => stack.kill(Service::Mysql).await.unwrap(),
            _ => drop(stack.stop(Service::Mysql).await.unwrap()),
        }
        stack.start(Service::Mysql).await.unwrap();
        let committed = writers.committed();
        field.until("writers go on", async || writers.committed() > committed).await;
    }
    writers.stop().await;

    field.settle().await;

    relay.stop().await;
    field.judge().await;
}

//! Relays come and go.

use crate::{field::Field, writers::Writers};
use outflow_tests::long;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::time::{Duration, Instant};

const MOST_RELAYS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_to_eight_relays_start_stop_and_are_killed_at_random_and_nothing_is_lost_or_out_of_order() {
    let field = Field::shared().await;
    let mut random = StdRng::seed_from_u64(field.seed);
    let writers = Writers::start(&field, 6).await;
    let mut relays = vec![field.relay()];
    let (mut stopped, mut killed) = (0, 0);
    let over = Instant::now() + Duration::from_secs(if long() { 300 } else { 20 });
    while Instant::now() < over {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
        let chosen = random.random_range(0..relays.len());
        match random.random_range(0..4) {
            // Of those that run the one with the lease is one of up to eight: more die than take over.
            0 if relays.len() > 1 => {
                relays.swap_remove(chosen).stop().await;
                stopped += 1;
            }
            1 | 2 if relays.len() > 1 || random.random_bool(0.5) => {
                relays.swap_remove(chosen).kill().await;
                killed += 1;
            }
            _ => {}
        }
        let wanted = random.random_range(1..=MOST_RELAYS);
        while relays.len() < wanted.min(relays.len() + 2).max(1) {
            relays.push(field.relay());
        }
    }
    writers.stop().await;

    field.settle().await;
    let owners = field.token().await;
    for relay in relays {
        relay.stop().await;
    }

    eprintln!("relays: {stopped} stopped, {killed} killed, the lease had {owners} owners");
    assert!(killed > 3 && owners > 3, "too little has happened to prove anything");
    assert!(field.lease_is_free().await, "a relay that ends gives its lease back");
    field.judge().await;
}

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
    let (mut fewest, mut most) = (usize::MAX, 0);
    // All of them, one alone, then as chance has it.
    let mut first_wanted = [MOST_RELAYS, 1].into_iter();
    let over = Instant::now() + Duration::from_secs(if long() { 300 } else { 20 });
    while Instant::now() < over {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
        let wanted = first_wanted.next().unwrap_or_else(|| random.random_range(1..=MOST_RELAYS));
        let too_many = relays.len().saturating_sub(wanted);
        for _ in 0..too_many.max(usize::from(random.random_bool(0.75))) {
            let chosen = relays.swap_remove(random.random_range(0..relays.len()));
            // Of those that run the one with the lease is one of up to eight: more die than take over.
            if random.random_bool(0.3) {
                chosen.stop_well().await;
                stopped += 1;
            } else {
                chosen.kill().await;
                killed += 1;
            }
        }
        relays.resize_with(relays.len().max(wanted), || field.relay());
        (fewest, most) = (fewest.min(relays.len()), most.max(relays.len()));
    }
    writers.stop().await;

    field.settle().await;
    let owners = field.token().await;
    for relay in relays {
        relay.stop_well().await;
    }

    eprintln!(
        "relays: {fewest} to {most} at once, {stopped} stopped, {killed} killed, the lease had {owners} owners"
    );
    assert_eq!((fewest, most), (1, MOST_RELAYS), "relays at once");
    assert!(killed > 3 && owners > 3, "too little has happened to prove anything");
    assert!(field.lease_is_free().await, "a relay that ends gives its lease back");
    field.judge().await;
}

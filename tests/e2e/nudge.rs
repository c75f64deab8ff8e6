//! The nudge after a commit: what delivers between two ticks, and what is lost without it (a latency, nothing else).

use crate::{
    harness::{Shop, eventually, on_the_pipe},
    postman::{Schedule, Way, with_postman},
};
use anyhow::ensure;
use std::time::{Duration, Instant};

/// Enough to have the relay at work, asleep and on its way there while orders come.
const MANY: usize = 300;
const SOME: usize = 20;
/// Lonely orders, each waited for.
const FEW: usize = 3;
/// Longer than the event sources wait for an answer at first, and than two ticks.
const STEADY: Duration = Duration::from_secs(15);

/// Everything committed is confirmed by Kafka.
async fn delivered(shop: &Shop) -> anyhow::Result<()> {
    eventually("every event is delivered", async || {
        let waiting = shop.mysql("SELECT COUNT(*) FROM outbox_status WHERE processed = 0").await?;
        ensure!(waiting == 0, "{waiting} events wait");
        Ok(Some(()))
    })
    .await
}

/// No relay is at work, so that the next order needs a nudge.
async fn asleep(shop: &Shop) -> anyhow::Result<()> {
    eventually("the relay sleeps", async || Ok(shop.store.sleeping_relay().await.map(drop))).await
}

/// Each relay that took the lease raised it by one.
async fn relays(shop: &Shop) -> anyhow::Result<i64> {
    shop.mysql("SELECT CAST(fencing_token AS SIGNED) FROM outbox_position WHERE relay_group = 'default'")
        .await
}

#[test]
fn with_the_schedule_off_nudges_alone_deliver_every_order() {
    on_the_pipe(async |shop| {
        shop.assert_conserved().await?;
        with_postman(shop, Schedule::Off, async |shop, postman| {
            for order in 1..=SOME {
                shop.order().await?;
                delivered(shop).await?;
                asleep(shop).await?;
                let nudges = postman.received();
                ensure!(nudges == order, "{nudges} nudges for {order} lonely orders");
            }
            Ok(())
        })
        .await?;
        shop.assert_conserved().await
    });
}

#[test]
fn many_quick_orders_are_all_delivered_by_few_nudges_and_few_relays() {
    on_the_pipe(async |shop| {
        shop.assert_conserved().await?;
        with_postman(shop, Schedule::Off, async |shop, postman| {
            let before = relays(shop).await?;
            let started = Instant::now();
            shop.orders(MANY).await?;
            let took = started.elapsed();
            delivered(shop).await?;
            let relays = relays(shop).await? - before;
            let nudges = postman.received();
            println!("{MANY} orders in {took:?}: {nudges} nudges, {relays} relays");
            // One in twenty; where the machine is slow, one for each drain and one for each second without any.
            let most = (MANY / 20).max(3 + 2 * usize::try_from(took.as_secs())?);
            ensure!(nudges <= most, "{nudges} nudges for {MANY} orders in {took:?}");
            // A relay that was about to end when an order came takes its lease once more, without a nudge.
            ensure!(usize::try_from(relays)? <= 2 * nudges, "{relays} relays for {nudges} nudges");
            Ok(())
        })
        .await?;
        shop.assert_conserved().await
    });
}

#[test]
fn under_steady_orders_every_tick_and_nudge_is_answered_and_no_request_is_left_in_the_emulator() {
    on_the_pipe(async |shop| {
        let log = shop.pipe.system.logs()[1].to_owned();
        let before = std::fs::read_to_string(&log)?.len();
        let started = Instant::now();
        while started.elapsed() < STEADY {
            shop.order().await?;
        }
        // A tick or a nudge that waits too long behind a relay at work is given up by its caller, and stays in the
        // emulator's queue: a hundred of them stop it for good.
        let told = std::fs::read_to_string(&log)?.split_off(before);
        ensure!(!told.contains("no answer within"), "{told}");
        shop.assert_conserved().await
    });
}

#[test]
fn with_every_nudge_lost_orders_are_taken_and_the_schedule_delivers_them() {
    on_the_pipe(async |shop| {
        with_postman(shop, Schedule::On, async |shop, postman| {
            postman.will(Way::Lost);
            shop.orders(SOME).await?;
            delivered(shop).await?;

            // Nobody listens any more: the shop must not feel it.
            postman.close().await?;
            let received = postman.received();
            let started = Instant::now();
            shop.orders(SOME).await?;
            let took = started.elapsed();
            delivered(shop).await?;
            ensure!(postman.received() == received, "nudges came through a closed door");
            ensure!(took < Duration::from_secs(10), "{SOME} orders took {took:?}");

            postman.open().await?;
            postman.will(Way::Delivered);
            eventually("nudges arrive again", async || {
                shop.order().await?;
                Ok((postman.received() > received).then_some(()))
            })
            .await
        })
        .await?;
        shop.assert_conserved().await
    });
}

#[test]
fn a_doubled_nudge_runs_the_relay_twice_a_delayed_one_once_and_both_deliver_without_the_schedule() {
    on_the_pipe(async |shop| {
        shop.assert_conserved().await?;
        with_postman(shop, Schedule::Off, async |shop, postman| {
            // The function has one instance here: what was still at work before has ended when this nudge has run.
            shop.order().await?;
            delivered(shop).await?;
            asleep(shop).await?;
            for (way, runs) in
                [(Way::Doubled(Duration::from_millis(200)), 2), (Way::Delayed(Duration::from_secs(2)), 1)]
            {
                postman.will(way);
                for _ in 0..FEW {
                    let (nudges, drained, leases) = (postman.received(), drains(shop)?, relays(shop).await?);
                    shop.order().await?;
                    delivered(shop).await?;
                    eventually("each nudge has run", async || {
                        let ran = drains(shop)? - drained;
                        ensure!(ran <= runs, "{way:?}: {ran} drains");
                        Ok((ran == runs).then_some(()))
                    })
                    .await?;
                    asleep(shop).await?;
                    let (nudges, leases) = (postman.received() - nudges, relays(shop).await? - leases);
                    ensure!(nudges == 1, "{way:?}: {nudges} nudges for one order");
                    // One that finds nothing to do takes no lease.
                    ensure!((1..=runs).contains(&usize::try_from(leases)?), "{way:?}: {leases} leases");
                }
            }
            for way in [Way::Doubled(Duration::from_millis(200)), Way::Delayed(Duration::from_secs(2))] {
                postman.will(way);
                shop.orders(SOME).await?;
                delivered(shop).await?;
            }
            Ok(())
        })
        .await?;
        shop.assert_conserved().await
    });
}

/// Drains that the function has told of.
fn drains(shop: &Shop) -> anyhow::Result<usize> {
    let log = std::fs::read_to_string(shop.pipe.system.logs()[0])?;
    Ok(log.matches("outbox drained").count())
}

//! One relay at a time: how long another one waits for it, and how long one call lasts.

use outflow_outbox::{Relay, RelaySettings};
use outflow_tests::{Recorder, TestShop, in_a_minute, until};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_relay_that_died_is_followed_within_its_lease() {
    let lease = Duration::from_secs(2);
    let shop = TestShop::start().await;
    let settings = RelaySettings { lease, ..RelaySettings::default() };
    let (dead, alive) = (Recorder::default(), Recorder::default());
    let dying = Relay::new(&shop.database_url, dead.clone(), settings.clone()).unwrap();
    let second = Relay::new(&shop.database_url, alive.clone(), settings).unwrap();
    shop.commit("a", 1).await;
    dead.hold(&["a"]);
    let drain = tokio::spawn(async move { dying.drain(in_a_minute()).await });
    dead.until_offered("a", 1).await;
    drain.abort();
    let died_at = Instant::now();
    let token = shop.number("SELECT CAST(fencing_token AS SIGNED) FROM outbox_position").await;

    until("the second one has taken over", async || {
        let report = second.drain(in_a_minute()).await.unwrap();
        assert_ne!(report.lease_held_elsewhere, report.published == 1);
        report.published == 1
    })
    .await;

    assert!(died_at.elapsed() < lease + Duration::from_secs(2), "after {:?}", died_at.elapsed());
    assert_eq!(alive.versions_of("a"), [1]);
    assert_eq!(shop.number("SELECT CAST(fencing_token AS SIGNED) FROM outbox_position").await, token + 1);
}

#[tokio::test]
async fn a_relay_that_ends_gives_its_lease_back_whether_it_went_well_or_not() {
    let shop = TestShop::start().await;
    let (first, recorder) = shop.recording_relay();
    let (second, _) = shop.recording_relay();
    let free = "SELECT lease_until IS NULL AND lease_owner IS NULL FROM outbox_position";
    shop.commit("a", 1).await;
    recorder.refuse(&["a"]);

    first.drain(in_a_minute()).await.unwrap_err();
    assert_eq!(shop.number(free).await, 1);
    recorder.refuse(&[]);
    first.drain(in_a_minute()).await.unwrap();
    assert_eq!(shop.number(free).await, 1);

    shop.commit("a", 2).await;
    let report = second.drain(in_a_minute()).await.unwrap();
    assert_eq!((report.published, report.lease_held_elsewhere), (1, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_in_time_however_much_comes() {
    let shop = TestShop::start().await;
    let (relay, recorder) = shop.recording_relay();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..2 {
        let mut connection = shop.connect().await;
        writers.spawn(async move {
            for version in 1.. {
                outflow_tests::write_event(&mut connection, &format!("a-{writer}"), version).await;
            }
        });
    }
    until("the first is there", async || shop.number("SELECT COUNT(*) FROM outbox").await > 0).await;
    let time = Duration::from_millis(1_500);
    let until = Instant::now() + time;

    let report = relay.drain(until).await.unwrap();
    let late = Instant::now().saturating_duration_since(until);
    let early = until.saturating_duration_since(Instant::now());
    writers.shutdown().await;

    assert!(report.published > 0 && report.published as usize == recorder.published().len());
    assert!(late < Duration::from_secs(2), "{late:?} after its time");
    assert_eq!(shop.number("SELECT lease_until IS NULL FROM outbox_position").await, 1);
    // It may end before its time where it came to the end of what waited, and not otherwise.
    assert!(early == Duration::ZERO || report.backlog < 20, "{early:?} before its time with {report:?}");
}

#[tokio::test]
async fn a_run_goes_on_looking_and_delivers_what_is_written_meanwhile() {
    let shop = TestShop::start().await;
    let (relay, recorder) = shop.recording_relay();
    shop.commit("a", 1).await;
    let beside = relay.clone();
    let run = tokio::spawn(async move { beside.run(in_a_minute(), Duration::from_secs(5)).await });
    for version in 1..=3 {
        until("it is delivered", async || recorder.versions_of("a").len() == version).await;
        shop.commit("a", version as u32 + 1).await;
    }
    until("the last is delivered", async || recorder.versions_of("a").len() == 4).await;
    let token = shop.number("SELECT CAST(fencing_token AS SIGNED) FROM outbox_position").await;
    let report = run.await.unwrap().unwrap();

    assert_eq!(recorder.versions_of("a"), [1, 2, 3, 4]);
    assert_eq!((report.published, token), (4, 1), "in one call and one lease");
}

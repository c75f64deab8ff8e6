//! One relay at a time: how long another one waits for it, and how long one call lasts.

mod questions;

use outflow_outbox::{FailureKind, Publisher, Relay, RelayError, RelaySettings};
use outflow_tests::{Recorder, TestShop, in_a_minute, until};
use sqlx::Executor;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_relay_that_died_is_followed_as_soon_as_its_lease_is_over() {
    /// From the end of the lease to the takeover: looks come each 10 ms, and a machine may be busy.
    const SLACK: i64 = 1_000_000;
    let lease = Duration::from_secs(5);
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
    // Waited for: from here on nobody renews it.
    assert!(drain.await.unwrap_err().is_cancelled());
    let token = shop.number("SELECT CAST(fencing_token AS SIGNED) FROM outbox_position").await;

    // On the server's clock, as the lease is.
    let lease_until = async || {
        shop.number("SELECT TIMESTAMPDIFF(MICROSECOND, '2000-01-01', lease_until) FROM outbox_position").await
    };
    let now = async || shop.number("SELECT TIMESTAMPDIFF(MICROSECOND, '2000-01-01', UTC_TIMESTAMP(6))").await;
    let mut over_at = 0;
    until("the second one has taken over", async || {
        over_at = lease_until().await;
        let report = second.drain(in_a_minute()).await.unwrap();
        assert_ne!(report.lease_held_elsewhere, report.published == 1);
        report.published == 1
    })
    .await;

    let late = now().await - over_at;
    assert!((0..SLACK).contains(&late), "{late} us after the end of the lease");
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

/// A lease that ends while a call may be on its way is renewed before the call, and one that can't outlast it lets
/// nothing out, neither fresh nor parked.
#[tokio::test]
async fn nothing_is_handed_over_under_a_lease_that_may_end_before_the_answer() {
    let shop = TestShop::start().await;
    let (relay, recorder) = shop.recording_relay();
    shop.commit("parked", 1).await;
    recorder.refuse_as(FailureKind::Record { permanent: false }, &["parked"]);
    relay.drain(in_a_minute()).await.unwrap();
    shop.commit("fresh", 1).await;
    shop.run("UPDATE outbox_failures SET next_attempt_at = UTC_TIMESTAMP(6)").await;
    // No renewal is as quick as that.
    let slow = Recorder::with_timeout(Duration::from_secs(10));
    let lease = slow.timeout() + Duration::from_micros(1);
    let settings = RelaySettings { lease, ..RelaySettings::default() };
    let short = Relay::new(&shop.database_url, slow.clone(), settings).unwrap();

    let report = short.drain(Instant::now() + Duration::from_millis(200)).await.unwrap();

    assert_eq!((report.published, report.backlog, report.parked), (0, 1, 1));
    assert_eq!((slow.offers("fresh"), slow.offers("parked")), (0, 0));
    recorder.refuse(&[]);
    assert_eq!(relay.drain(in_a_minute()).await.unwrap().published, 2);
}

/// What the function keeps free before its deadline has to be enough.
#[tokio::test]
async fn a_drain_ends_in_its_overtime_also_where_publisher_and_mysql_take_all_of_theirs() {
    let shop = TestShop::start().await;
    let recorder = Recorder::with_timeout(Duration::from_secs(2));
    let relay = shop.relay_to(&recorder, RelaySettings::default());
    shop.commit("a", 1).await;
    recorder.hold(&["a"]);
    let time_out = Instant::now() + Duration::from_millis(300);
    let beside = relay.clone();
    let drain = tokio::spawn(async move { beside.drain(time_out).await });
    recorder.until_offered("a", 1).await;
    let answers_at = Instant::now() + recorder.timeout();
    // From now on each move of the position waits for this, and so does giving the lease back.
    let mut stopper = shop.begin().await;
    stopper.execute("SELECT position FROM outbox_position FOR UPDATE").await.unwrap();
    tokio::time::sleep_until(answers_at.into()).await;
    recorder.hold(&[]);

    let error = drain.await.unwrap().unwrap_err();

    assert!(Instant::now() < time_out + relay.overtime(), "{:?} after its time", time_out.elapsed());
    assert!(
        !matches!(error, RelayError::Publish { .. }),
        "the publisher was slow, and did its work: {error}"
    );
    stopper.rollback().await.unwrap();
    until("the next drain repeats it", async || relay.drain(in_a_minute()).await.unwrap().published == 1)
        .await;
    assert_eq!(recorder.versions_of("a"), [1, 1]);
}

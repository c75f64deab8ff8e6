//! What a relay tells of itself: every metric by its name, its value and its group.

use opentelemetry::KeyValue;
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};
use outflow_outbox::{FailureKind, Relay, RelaySettings, RetrySettings, metrics::*};
use outflow_tests::{Recorder, TestShop, in_a_minute, write_event};
use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex},
    time::Duration,
};

/// Installed once, for every relay of this process that is made from then on; read by one test at a time.
static INSTALLED: LazyLock<Mutex<Meter>> = LazyLock::new(|| Mutex::new(Meter::install()));

struct Meter {
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

/// A relay of a group that no other test's relay has, and the newest values that it has told by name, and by name and
/// cause where there is one. Histograms by their count.
fn metered(
    shop: &TestShop,
    recorder: &Recorder,
    group: &'static str,
) -> (Relay<Recorder>, impl Fn() -> BTreeMap<String, f64>) {
    LazyLock::force(&INSTALLED);
    let retry = RetrySettings { first_pause: Duration::from_secs(600), ..RetrySettings::default() };
    let settings = RelaySettings { group: group.to_owned(), retry, ..RelaySettings::default() };
    (shop.relay_to(recorder, settings), move || INSTALLED.lock().unwrap().read(group))
}

impl Meter {
    fn install() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader =
            PeriodicReader::builder(exporter.clone()).with_interval(Duration::from_secs(3_600)).build();
        let provider = SdkMeterProvider::builder().with_reader(reader).build();
        opentelemetry::global::set_meter_provider(provider.clone());
        Self { provider, exporter }
    }

    fn read(&self, group: &str) -> BTreeMap<String, f64> {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let mut found = BTreeMap::new();
        let exported = self.exporter.get_finished_metrics().unwrap();
        for scope in exported.iter().flat_map(|resource| resource.scope_metrics()) {
            assert_eq!(scope.scope().name(), METER);
            for metric in scope.metrics() {
                let mut note = |attributes: Vec<&KeyValue>, value: f64| {
                    let value_of = |key: &str| {
                        let found = attributes.iter().find(|attribute| attribute.key.as_str() == key);
                        found.map(|attribute| attribute.value.as_str().into_owned())
                    };
                    if value_of("group").as_deref() == Some(group) {
                        let cause = value_of("cause").map(|cause| format!(" {cause}")).unwrap_or_default();
                        found.insert(format!("{}{cause}", metric.name()), value);
                    }
                };
                match metric.data() {
                    AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                        assert!(sum.is_monotonic() && metric.name().ends_with("_total"));
                        sum.data_points().for_each(|p| note(p.attributes().collect(), p.value() as f64));
                    }
                    AggregatedMetrics::U64(MetricData::Gauge(gauge)) => {
                        gauge.data_points().for_each(|p| note(p.attributes().collect(), p.value() as f64));
                    }
                    AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
                        assert_eq!(metric.unit(), "s");
                        gauge.data_points().for_each(|p| note(p.attributes().collect(), p.value()));
                    }
                    AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                        assert_eq!(metric.unit(), "s");
                        histogram
                            .data_points()
                            .for_each(|p| note(p.attributes().collect(), p.count() as f64));
                    }
                    other => panic!("{} is {other:?}", metric.name()),
                }
            }
        }
        found
    }
}

#[tokio::test]
async fn every_metric_tells_what_happened_under_its_name_with_its_group() {
    const GROUP: &str = "metered";
    let shop = TestShop::start().await;
    let recorder = Recorder::default();
    let (relay, read) = metered(&shop, &recorder, GROUP);

    let new = read();
    for counter in [PUBLISHED, RETRIED, TAKEOVERS, ORDER_VIOLATIONS, SET_BACK, PRUNE_FAILURES] {
        assert_eq!(new.get(counter), Some(&0.0), "{counter} is there before anything happens: {new:?}");
    }
    assert_eq!(relay.drain(in_a_minute()).await.unwrap().published, 0);
    let idle = read();
    for gauge in [BACKLOG, OLDEST_AGE, GAPS, OLDEST_GAP_AGE, PARKED] {
        assert_eq!(idle.get(gauge), Some(&0.0), "{gauge}, idle: {idle:?}");
    }

    // A relay has died, one event is never accepted, one only the second time, and one transaction stays open.
    shop.run(format!(
        "UPDATE outbox_position SET lease_owner = 'dead', lease_until = UTC_TIMESTAMP(6) WHERE relay_group = '{GROUP}'"
    ))
    .await;
    let mut open = shop.begin().await;
    write_event(&mut open, "open", 1).await;
    for aggregate in ["fine", "dead", "late"] {
        shop.commit(aggregate, 1).await;
    }
    recorder.refuse_as(FailureKind::Record { permanent: true }, &["dead"]);
    relay.drain(in_a_minute()).await.unwrap();
    recorder.refuse_as(FailureKind::Record { permanent: false }, &["late"]);
    shop.commit("late", 2).await;
    relay.drain(in_a_minute()).await.unwrap();
    recorder.refuse(&[]);
    shop.run("UPDATE outbox_failures SET next_attempt_at = UTC_TIMESTAMP(6) WHERE state = 'retry'").await;
    relay.drain(in_a_minute()).await.unwrap();

    let told = read();
    for (name, value) in [
        (PUBLISHED, 3.0),
        (RETRIED, 1.0),
        ("outflow_outbox_dead_total refused", 1.0),
        (TAKEOVERS, 1.0),
        (ORDER_VIOLATIONS, 0.0),
        (SET_BACK, 0.0),
        (PRUNE_FAILURES, 0.0),
        (BACKLOG, 0.0),
        (OLDEST_AGE, 0.0),
        (GAPS, 1.0),
        (PARKED, 1.0),
    ] {
        assert_eq!(told.get(name), Some(&value), "{name}: {told:?}");
    }
    assert!(told[OLDEST_GAP_AGE] > 0.0);
    for histogram in [READ_TIME, DELIVER_TIME, MOVE_TIME] {
        assert!(told[histogram] >= 2.0, "{histogram}: {told:?}");
    }

    // A broker that is down is told in age, though the drain fails.
    recorder.refuse(&["fine"]);
    shop.commit("fine", 2).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    relay.drain(in_a_minute()).await.unwrap_err();
    let down = read();
    assert_eq!((down[BACKLOG], down[GAPS], down[PARKED]), (1.0, 1.0, 1.0));
    assert!(down[OLDEST_AGE] >= 0.02);

    // Who writes versions out of order is told of.
    recorder.refuse(&[]);
    shop.commit("fine", 3).await;
    shop.commit("wrong", 2).await;
    shop.commit("wrong", 1).await;
    relay.drain(in_a_minute()).await.unwrap();
    assert_eq!(read()[ORDER_VIOLATIONS], 1.0);
    open.rollback().await.unwrap();
}

#[tokio::test]
async fn gaps_that_stay_open_are_told_also_where_the_group_is_paused_or_another_relay_has_the_lease() {
    let shop = TestShop::start().await;
    let recorder = Recorder::default();
    let (relay, read) = metered(&shop, &recorder, "kept-out");
    let mut open = shop.begin().await;
    write_event(&mut open, "open", 1).await;
    shop.commit("a", 1).await;
    assert_eq!(relay.drain(in_a_minute()).await.unwrap().gaps, 1);
    let mut last = read()[OLDEST_GAP_AGE];

    for kept_out in ["paused_at = UTC_TIMESTAMP(6)", "paused_at = NULL, lease_until = '2999-01-01'"] {
        shop.run(format!("UPDATE outbox_position SET {kept_out}")).await;
        let report = relay.drain(in_a_minute()).await.unwrap();
        let told = read();

        assert!(report.paused != report.lease_held_elsewhere, "{report:?}");
        assert_eq!((report.gaps, told[GAPS]), (1, 1.0), "{kept_out}");
        assert!(told[OLDEST_GAP_AGE] > last, "{last} s, then {} s", told[OLDEST_GAP_AGE]);
        last = told[OLDEST_GAP_AGE];
    }
    shop.run("UPDATE outbox_position SET lease_until = NULL").await;
    open.commit().await.unwrap();
    assert_eq!(relay.drain(in_a_minute()).await.unwrap().gaps, 0);
    assert_eq!((read()[GAPS], read()[OLDEST_GAP_AGE]), (0.0, 0.0));
}

#[tokio::test]
async fn a_version_that_first_appears_behind_a_higher_one_is_counted_in_any_drain_and_repeats_never() {
    let shop = TestShop::start().await;
    let recorder = Recorder::default();
    let (relay, read) = metered(&shop, &recorder, "ordered");

    // Written without a lock, and met by two drains.
    shop.commit("unlocked", 2).await;
    relay.drain(in_a_minute()).await.unwrap();
    shop.commit("unlocked", 1).await;
    relay.drain(in_a_minute()).await.unwrap();
    assert_eq!(read()[ORDER_VIOLATIONS], 1.0);

    // Confirmed and not moved over, for its neighbour was not: each drain repeats what the one before has published.
    for version in 1..=3 {
        shop.commit("repeated", version).await;
        shop.commit("stuck", version).await;
    }
    recorder.refuse(&["stuck"]);
    for _ in 0..2 {
        relay.drain(in_a_minute()).await.unwrap_err();
    }
    recorder.refuse(&[]);
    relay.drain(in_a_minute()).await.unwrap();
    assert!(recorder.versions_of("repeated").len() > 3, "{:?}", recorder.versions_of("repeated"));
    assert_eq!(read()[ORDER_VIOLATIONS], 1.0);

    // Refused at first, so that it only appears when it is tried again.
    shop.commit("parked", 2).await;
    relay.drain(in_a_minute()).await.unwrap();
    recorder.refuse_as(FailureKind::Record { permanent: false }, &["parked"]);
    shop.commit("parked", 1).await;
    relay.drain(in_a_minute()).await.unwrap();
    assert_eq!(read()[ORDER_VIOLATIONS], 1.0, "nobody has seen it yet");
    recorder.refuse(&[]);
    shop.run("UPDATE outbox_failures SET next_attempt_at = UTC_TIMESTAMP(6)").await;
    relay.drain(in_a_minute()).await.unwrap();
    assert_eq!(recorder.versions_of("parked"), [2, 1]);
    assert_eq!(read()[ORDER_VIOLATIONS], 2.0);
}

//! What is counted of transforms that go wrong, under its name and for its slot.

use crate::{
    run,
    shelf::{Shelf, signed},
    support::{patch, patched},
};
use opentelemetry::Value;
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};
use outflow_transform::{RejectLimit, metrics::*};
use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

/// Of no other test of this process: whose counters they are is told by it.
const SLOT: &str = "table_six";

/// The newest value of each counter that is the slot's, or nobody's.
fn read(provider: &SdkMeterProvider, exporter: &InMemoryMetricExporter) -> BTreeMap<String, u64> {
    exporter.reset();
    provider.force_flush().expect("nothing is in its way");
    let mut found = BTreeMap::new();
    let exported = exporter.get_finished_metrics().expect("nothing is in its way");
    for scope in exported.iter().flat_map(|resource| resource.scope_metrics()) {
        assert_eq!(scope.scope().name(), METER);
        for metric in scope.metrics() {
            let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() else {
                panic!("{} is no counter", metric.name())
            };
            assert!(sum.is_monotonic() && metric.name().ends_with("_total"));
            for point in sum.data_points() {
                let slot = point.attributes().find(|attribute| attribute.key.as_str() == "slot");
                if slot.is_none_or(|slot| slot.value == Value::from(SLOT)) {
                    found.insert(metric.name().to_owned(), point.value());
                }
            }
        }
    }
    found
}

#[tokio::test]
async fn what_goes_wrong_is_counted_from_zero_on() {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).with_interval(Duration::from_secs(3_600)).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    opentelemetry::global::set_meter_provider(provider.clone());
    let read = || read(&provider, &exporter);
    let shelf = Shelf::in_a_folder();
    let guest = patched("table_one", SLOT);
    let good = shelf.publish(&guest).await;
    let bad = shelf.publish(&patch(&guest, "note_id", "memo_id")).await;
    let (active, now) = (shelf.active(), Instant::now());

    shelf.activate(&good).await;
    active.refresh(now).await.expect("one is active");
    let none = read();
    assert_eq!((none[ROLLBACKS], none[REFUSED_MODULES]), (0, 0), "{none:?}");
    let pointers_refused = none[REFUSED_POINTERS];

    // A pointer that says nothing, and a module whose native code is away when it is asked for.
    shelf.forge(2, "no pointer");
    let limit = RejectLimit { percent: 10, from_records: 2, to_records: 10 };
    shelf.registry.activate(&bad, Some(limit), signed()).await.expect("it is activated");
    let path = shelf.artifact_path(&bad, "cwasm");
    let native = fs::read(&path).expect("it is there");
    fs::remove_file(&path).expect("it can be removed");
    active.refresh(now).await.expect("the good one goes on");
    active.refresh(now).await.expect("the good one goes on");
    fs::write(&path, native).expect("it can be written");
    let refused = read();
    assert_eq!((refused[ROLLBACKS], refused[REFUSED_MODULES]), (0, 1), "{refused:?}");
    // Other tests of this process have such pointers, too.
    assert!(refused[REFUSED_POINTERS] > pointers_refused, "{refused:?}");

    let later = now + Duration::from_secs(1);
    let loaded = active.refresh(later).await.expect("the bad one loads").remove(0);
    run(&loaded, &["reject", "reject"]);
    active.roll_back(&loaded, signed()).await.expect("it goes back");
    active.roll_back(&loaded, signed()).await.expect_err("it is done");
    assert_eq!(read()[ROLLBACKS], 1);
}

//! A real HTTP receiver takes what a flush sends.

use super::*;
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{KeyValue as Attribute, any_value::Value as Text},
    metrics::v1::{
        AggregationTemporality, HistogramDataPoint, NumberDataPoint, metric::Data,
        number_data_point::Value as Number,
    },
};
use prost::Message as _;
use std::{sync::Mutex, time::Instant};
use tokio::net::TcpListener;

/// Beyond its limit a flush may take what a busy machine needs to wake it.
const SLACK: Duration = Duration::from_secs(2);

type Requests = Arc<Mutex<Vec<Bytes>>>;

/// A receiver that answers with this status, and what it was sent.
async fn receiver(status: StatusCode) -> (String, Requests) {
    let requests = Requests::default();
    let take = move |State(requests): State<Requests>, body: Bytes| async move {
        requests.lock().expect("no test panics while it holds this").push(body);
        status
    };
    let app = Router::new().route("/api/v1/otlp/v1/metrics", post(take)).with_state(requests.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}/api/v1/otlp"), requests)
}

fn push(endpoint: &str) -> Push {
    Push::new("a-function", endpoint).expect("a usable endpoint")
}

/// The request that came last, decoded: its resource's attributes, and its metrics by name.
fn last(requests: &Requests) -> (HashMap<String, String>, HashMap<String, Data>) {
    let requests = requests.lock().expect("no test panics while it holds this");
    let body = requests.last().expect("a request").clone();
    let request = ExportMetricsServiceRequest::decode(body).expect("an OTLP request");
    let [sent] = request.resource_metrics.try_into().expect("one resource");
    let resource = attributes(&sent.resource.expect("a resource").attributes);
    let metrics = sent.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
    (resource, metrics.map(|metric| (metric.name, metric.data.expect("data"))).collect())
}

fn attributes(attributes: &[Attribute]) -> HashMap<String, String> {
    let pair = |attribute: &Attribute| {
        let value = attribute.value.clone().and_then(|value| value.value);
        let Some(Text::StringValue(value)) = value else { panic!("{attribute:?} is no text") };
        (attribute.key.clone(), value)
    };
    attributes.iter().map(pair).collect()
}

/// A counter's points: the value of the label `group`, and the count.
fn counts(data: &Data) -> Vec<(String, i64)> {
    let Data::Sum(sum) = data else { panic!("{data:?} is no sum") };
    assert!(sum.is_monotonic);
    assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
    sum.data_points.iter().map(|point| (group(point), whole(point))).collect()
}

fn group(point: &NumberDataPoint) -> String {
    attributes(&point.attributes).remove("group").expect("a group")
}

fn whole(point: &NumberDataPoint) -> i64 {
    let Some(Number::AsInt(value)) = point.value else { panic!("{point:?} holds no integer") };
    value
}

fn histogram(data: &Data) -> &HistogramDataPoint {
    let Data::Histogram(histogram) = data else { panic!("{data:?} is no histogram") };
    assert_eq!(histogram.aggregation_temporality(), AggregationTemporality::Cumulative);
    let [point] = histogram.data_points.as_slice() else { panic!("{histogram:?} has not one point") };
    point
}

#[tokio::test]
async fn a_flush_sends_every_instrument_under_its_own_name() {
    let (endpoint, requests) = receiver(StatusCode::OK).await;
    let push = push(&endpoint);
    let meter = push.provider.meter("a-meter");
    let labels = [KeyValue::new("group", "default")];
    meter.u64_counter("outflow_some_total").build().add(3, &labels);
    meter.u64_gauge("outflow_some_events").build().record(7, &labels);
    let seconds = meter.f64_histogram("outflow_some_seconds").with_unit("s");
    seconds.with_boundaries(vec![0.1, 1.0]).build().record(0.5, &labels);

    push.flush().await;

    let (resource, metrics) = last(&requests);
    assert_eq!(resource["service.name"], "a-function");
    Uuid::parse_str(&resource["service.instance.id"]).expect("an id of this process");
    assert_eq!(metrics.len(), 3, "{metrics:?}");
    assert_eq!(counts(&metrics["outflow_some_total"]), [("default".to_owned(), 3)]);
    let Data::Gauge(gauge) = &metrics["outflow_some_events"] else { panic!("no gauge in {metrics:?}") };
    assert_eq!(gauge.data_points.iter().map(whole).collect::<Vec<_>>(), [7]);
    let point = histogram(&metrics["outflow_some_seconds"]);
    assert_eq!((&point.explicit_bounds[..], &point.bucket_counts[..]), (&[0.1, 1.0][..], &[0, 1, 0][..]));
}

#[tokio::test]
async fn a_lost_flush_loses_no_count() {
    let (broken, refused) = receiver(StatusCode::SERVICE_UNAVAILABLE).await;
    let (sound, taken) = receiver(StatusCode::OK).await;
    let mut push = push(&broken);
    let counter = push.provider.meter("a-meter").u64_counter("outflow_some_total").build();
    let labels = [KeyValue::new("group", "default")];

    counter.add(2, &labels);
    push.flush().await;
    assert_eq!(refused.lock().expect("not poisoned").len(), 1);
    push.exporter = self::push(&sound).exporter;
    counter.add(3, &labels);
    push.flush().await;

    assert_eq!(counts(&last(&taken).1["outflow_some_total"]), [("default".to_owned(), 5)]);
}

#[tokio::test]
async fn a_gauge_is_sent_only_after_it_was_measured_anew() {
    let (endpoint, requests) = receiver(StatusCode::OK).await;
    let push = push(&endpoint);
    let meter = push.provider.meter("a-meter");
    meter.u64_counter("outflow_some_total").build().add(1, &[KeyValue::new("group", "default")]);
    let gauge = meter.u64_gauge("outflow_some_events").build();

    gauge.record(7, &[]);
    push.flush().await;
    assert!(last(&requests).1.contains_key("outflow_some_events"));
    push.flush().await;

    let metrics = last(&requests).1;
    assert_eq!(metrics.into_keys().collect::<Vec<_>>(), ["outflow_some_total"]);
}

#[tokio::test]
async fn two_processes_are_two_instances() {
    let (endpoint, requests) = receiver(StatusCode::OK).await;
    let mut instances = Vec::new();
    for push in [push(&endpoint), push(&endpoint)] {
        push.provider.meter("a-meter").u64_counter("outflow_some_total").build().add(1, &[]);
        push.flush().await;
        instances.push(last(&requests).0["service.instance.id"].clone());
    }

    assert_ne!(instances[0], instances[1]);
}

#[tokio::test]
async fn a_receiver_that_hangs_costs_a_flush_its_limit() {
    // Connections are accepted by the kernel, and nobody ever reads from them.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let push = push(&format!("http://{}", listener.local_addr().expect("its address")));
    push.provider.meter("a-meter").u64_counter("outflow_some_total").build().add(1, &[]);

    let began_at = Instant::now();
    push.flush().await;

    assert!((FLUSH_LIMIT..FLUSH_LIMIT + SLACK).contains(&began_at.elapsed()), "{:?}", began_at.elapsed());
}

#[tokio::test]
async fn a_receiver_that_is_away_costs_a_flush_its_limit_at_most() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let push = push(&format!("http://{}", listener.local_addr().expect("its address")));
    drop(listener);

    let began_at = Instant::now();
    push.flush().await;

    assert!(began_at.elapsed() < FLUSH_LIMIT + SLACK, "{:?}", began_at.elapsed());
}

/// The one test here that sets the process's provider.
#[tokio::test]
async fn instruments_of_a_library_report_once_the_exporter_is_installed() {
    let (endpoint, requests) = receiver(StatusCode::OK).await;
    let exporter = Exporter::install("a-function", Some(&endpoint)).expect("a usable endpoint");
    let labels = [KeyValue::new("group", "default")];
    global::meter("a-library").u64_counter("outflow_library_total").build().add(1, &labels);

    exporter.flush().await;

    assert_eq!(counts(&last(&requests).1["outflow_library_total"]), [("default".to_owned(), 1)]);
}

#[tokio::test]
async fn without_an_endpoint_nothing_is_set_up() {
    for endpoint in [None, Some("")] {
        let exporter = Exporter::install("a-function", endpoint).expect("no endpoint is fine");
        assert!(exporter.0.is_none());
        exporter.flush().await;
    }
}

#[test]
fn an_endpoint_that_cannot_be_one_is_refused() {
    for endpoint in ["https://prometheus:9090", "prometheus:9090", "http://", "http://a b"] {
        Push::new("a-function", endpoint).expect_err(endpoint);
    }
}

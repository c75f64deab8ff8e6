//! What the host is compared with: the same mapping linked into it, and a component that takes and gives JSON.

use jiff::{Timestamp, fmt::temporal::DateTimePrinter, tz::Offset};
use order_event::{Figures, Order, order};
use outflow_transform::{Event, Stamp, Target, compile};
use rust_decimal::Decimal;
use serde::Serialize;
use wasmtime::{
    Engine, Store,
    component::{Component, InstancePre, Linker},
};

/// As ClickHouse reads it. `time` takes several times as long, by a format that it reads piece by piece.
const TIME: DateTimePrinter = DateTimePrinter::new().separator(b' ').precision(Some(3));
/// A row has about so many bytes.
const TYPICAL_LEN: usize = 640;

/// A row of `orders_analytics` as a typed struct, every column of it.
#[derive(Serialize)]
struct Row<'a> {
    order_id: &'a str,
    order_date: String,
    user_id: &'a str,
    status: &'a str,
    total_amount: Decimal,
    item_count: u32,
    quantity: u32,
    order_band: &'a str,
    version: u64,
    is_deleted: u8,
    event_id: &'a str,
    transform_digest: &'a str,
    occurred_at: String,
    relayed_at: String,
    transformed_at: &'a str,
    is_canary: u8,
}

/// `serde` from the payload to a typed struct, the same checks, `serde_json` from a typed struct to the row's JSON.
/// What is the same in each row is made once, as the host does.
pub(crate) fn native(events: &[Event<'_>], digest: &str, stamp: Stamp) -> Vec<Vec<u8>> {
    let transformed_at = text(stamp.transformed_at_us);
    let generation = u64::from(stamp.generation.get());
    events
        .iter()
        .map(|event| {
            let given = outflow_transform_sdk::Event {
                id: event.id.into(),
                event_type: event.event_type.into(),
                aggregate_id: event.aggregate_id.into(),
                aggregate_version: event.aggregate_version,
                schema_version: event.schema_version,
                occurred_at_us: event.occurred_at_us,
                topic: event.topic.into(),
                partition: event.partition,
                offset: event.offset,
                headers: outflow_transform_sdk::Headers::default(),
                payload: event.payload,
            };
            let Order { payload, total, created_at_us } = order::<Figures<'_>>(&given).unwrap();
            let row = Row {
                order_id: &payload.order_id,
                order_date: text(created_at_us),
                user_id: &payload.user_id,
                status: &payload.status,
                total_amount: total,
                item_count: payload.item_count,
                quantity: payload.quantity,
                order_band: "all",
                version: event.aggregate_version << 24 | generation,
                is_deleted: 0,
                event_id: event.id,
                transform_digest: digest,
                occurred_at: text(event.occurred_at_us),
                relayed_at: text(event.relayed_at_us),
                transformed_at: &transformed_at,
                is_canary: 0,
            };
            let mut json = Vec::with_capacity(TYPICAL_LEN);
            serde_json::to_writer(&mut json, &row).unwrap();
            json
        })
        .collect()
}

fn text(us: i64) -> String {
    TIME.datetime_to_string(&Offset::UTC.to_datetime(Timestamp::from_microsecond(us).unwrap()))
}

/// A component that takes a batch as one JSON text and gives its rows as another; an instance a batch from the same pool,
/// under the same configuration as ours.
pub(crate) struct JsonComponent {
    engine: Engine,
    pre: InstancePre<()>,
}

#[derive(Serialize)]
struct Given<'a> {
    aggregate_id: &'a str,
    payload: &'a serde_json::value::RawValue,
}

impl JsonComponent {
    pub(crate) fn load(wasm: &[u8]) -> Self {
        let engine = Engine::new(&compile::engine_config(Target::THIS).unwrap()).unwrap();
        let component = Component::new(&engine, wasm).unwrap();
        let pre = Linker::new(&engine).instantiate_pre(&component).unwrap();
        Self { engine, pre }
    }

    /// Rows as JSON values: nothing of them is checked, and nothing is stamped.
    pub(crate) fn run(&self, events: &[Event<'_>]) -> Vec<serde_json::Value> {
        let given: Vec<Given<'_>> = events
            .iter()
            .map(|event| Given {
                aggregate_id: event.aggregate_id,
                payload: serde_json::from_slice(event.payload).unwrap(),
            })
            .collect();
        let mut store = Store::new(&self.engine, ());
        store.set_epoch_deadline(1_000_000);
        let instance = self.pre.instantiate(&mut store).unwrap();
        let transform = instance.get_typed_func::<(&str,), (String,)>(&mut store, "transform").unwrap();
        let (answer,) = transform.call(&mut store, (&serde_json::to_string(&given).unwrap(),)).unwrap();
        serde_json::from_str(&answer).unwrap()
    }
}

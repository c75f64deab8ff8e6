//! What a guest crate depends on to become a transform: events, rows, `export!`, and helpers for money and times.
//!
//! A guest is one pure function from an event to rows, and the tables that it fills:
//!
//! ```
//! use outflow_transform_sdk::{Event, Reject, Rows, Table};
//!
//! static TABLES: &[Table] = &[Table { name: "pings", columns: &[("ping_id", "String")] }];
//!
//! fn map(event: &Event<'_>, rows: &mut Rows<'_>) -> Result<(), Reject> {
//!     rows.row(0).text(event.aggregate_id);
//!     Ok(())
//! }
//!
//! outflow_transform_sdk::export!(event_types: ["PingSent"], tables: TABLES, map: map);
//! # fn main() {}
//! ```
//! An event without rows is skipped; `Err` sends it to the dead letters with its reason.
//!
//! Must not: reach for a clock, randomness or any other import. The host provides `log` and nothing else.

#[doc(hidden)]
pub mod bindings;
pub mod decimal;
mod packed;
pub mod time;

pub use packed::{Answer, Event, Headers, Row, Rows, Text};
pub use rust_decimal::Decimal;

/// A table that a transform fills, with ClickHouse's own spelling of each column's type.
///
/// Without the host's columns (`version`, `is_deleted`, `event_id`, `transform_digest`, `occurred_at`,
/// `relayed_at`, `transformed_at`): the host refuses a module that declares one of them.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub name: &'static str,
    pub columns: &'static [(&'static str, &'static str)],
}

/// Why an event can't be mapped: it goes to the dead letters with this reason, and nothing of its rows is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Short and stable (snake_case): dead letters are grouped by it.
    pub code: &'static str,
    pub message: String,
}

impl Reject {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// How bad a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error = 1,
    Warn = 2,
    Info = 3,
    Debug = 4,
}

/// Hands a line to the host's log. The host cuts long lines and drops a flood.
///
/// In a native test the line goes to stderr.
pub fn log(level: Level, message: &str) {
    #[cfg(target_family = "wasm")]
    bindings::log(level as u8, message);
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{level:?}: {message}");
}

/// Makes a crate a transform. Call it once, at the root of a `cdylib`.
///
/// `event_types` lists what the host sends; `map` is a `fn(&Event<'_>, &mut Rows<'_>) -> Result<(), Reject>`. A guest that
/// reads headers names them, `headers: ["traceparent"]` before `map`: others don't come.
#[macro_export]
macro_rules! export {
    (event_types: [$($event_type:expr),+ $(,)?], tables: $tables:expr, map: $map:expr $(,)?) => {
        $crate::export!(event_types: [$($event_type),+], tables: $tables, headers: [], map: $map);
    };
    (
        event_types: [$($event_type:expr),+ $(,)?],
        tables: $tables:expr,
        headers: [$($header:expr),* $(,)?],
        map: $map:expr $(,)?
    ) => {
        #[doc(hidden)]
        #[allow(unsafe_code, missing_debug_implementations, unreachable_pub)]
        mod outflow_export {
            pub(crate) struct Plugin;

            impl $crate::__private::Guest for Plugin {
                fn describe() -> $crate::__private::Descriptor {
                    $crate::__private::descriptor(
                        env!("CARGO_PKG_NAME"),
                        env!("CARGO_PKG_VERSION"),
                        &[$($event_type),+],
                        super::outflow_tables(),
                    )
                }

                fn headers() -> Vec<String> {
                    vec![$(String::from($header)),*]
                }

                fn configure(settings: Vec<(String, String)>) -> Result<(), String> {
                    $crate::__private::no_settings(settings)
                }

                fn transform(batch: Vec<u8>) -> Vec<u8> {
                    $crate::__private::run(&batch, super::outflow_map)
                }
            }

            $crate::__private::export_component!(Plugin with_types_in $crate::bindings);
        }

        fn outflow_tables() -> &'static [$crate::Table] {
            $tables
        }

        fn outflow_map(event: &$crate::Event<'_>, rows: &mut $crate::Rows<'_>) -> Result<(), $crate::Reject> {
            $map(event, rows)
        }
    };
}

/// What `export!` expands to; not for use by hand.
#[doc(hidden)]
pub mod __private {
    use crate::bindings::outflow::transform::types as wire;
    use crate::{Answer, Event, Reject, Rows, Table, packed::Reader};

    pub use crate::bindings::export_component;
    pub use crate::bindings::exports::outflow::transform::packed_transformer::Guest;
    pub use wire::Descriptor;

    pub fn descriptor(name: &str, version: &str, event_types: &[&str], tables: &[Table]) -> Descriptor {
        let column = |&(name, ch_type): &(&str, &str)| wire::Column {
            name: name.to_owned(),
            ch_type: ch_type.to_owned(),
        };
        Descriptor {
            name: name.to_owned(),
            version: version.to_owned(),
            event_types: event_types.iter().map(|&t| t.to_owned()).collect(),
            tables: tables
                .iter()
                .map(|table| wire::Table {
                    name: table.name.to_owned(),
                    columns: table.columns.iter().map(column).collect(),
                })
                .collect(),
        }
    }

    /// A transform without settings refuses any, so that a misspelt deployment is noticed.
    pub fn no_settings(settings: Vec<(String, String)>) -> Result<(), String> {
        match settings.first() {
            None => Ok(()),
            Some((key, _)) => Err(format!("unknown setting '{key}': this transform has none")),
        }
    }

    pub fn run(batch: &[u8], map: fn(&Event<'_>, &mut Rows<'_>) -> Result<(), Reject>) -> Vec<u8> {
        log_panics();
        let mut reader = Reader::new(batch);
        let events = reader.u32();
        let mut answer = Answer::of(events);
        for _ in 0..events {
            let event = reader.event();
            answer.outcome(|rows| map(&event, rows));
        }
        answer.into_bytes()
    }

    /// The events of a batch, for a guest that answers by itself.
    pub fn events(batch: &[u8]) -> Vec<Event<'_>> {
        let mut reader = Reader::new(batch);
        (0..reader.u32()).map(|_| reader.event()).collect()
    }

    /// A panic ends in a trap that carries no words; the hook gets them out before.
    pub fn log_panics() {
        #[cfg(target_family = "wasm")]
        std::panic::set_hook(Box::new(|panic| crate::log(crate::Level::Error, &panic.to_string())));
    }
}

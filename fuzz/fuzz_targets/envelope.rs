//! A Kafka record: an event that says the same, or a dead letter that keeps it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| transform_events::fuzz::envelope(data));

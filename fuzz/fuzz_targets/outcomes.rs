//! Outcomes as bytes and as typed values: rows that say the same, or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outflow_transform::fuzz::outcomes(data));

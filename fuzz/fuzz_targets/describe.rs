//! What a module says of itself: taken so, or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outflow_transform::fuzz::describe(data));

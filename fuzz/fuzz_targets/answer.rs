//! The bytes that a module answers: read whole, or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outflow_transform::fuzz::answer(data));

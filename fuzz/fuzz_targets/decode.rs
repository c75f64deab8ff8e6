//! A module's answer: read as its layout says, or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outflow_transform::fuzz::decode(data));

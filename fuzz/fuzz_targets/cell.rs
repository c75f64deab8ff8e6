//! A column's type and a cell: JSON that says the same, or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| outflow_transform::fuzz::cell(data));

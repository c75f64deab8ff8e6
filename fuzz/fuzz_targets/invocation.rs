//! What Lambda hands over: records as above, or refused as a whole.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| transform_events::fuzz::invocation(data));

//! Events on their way to a module: read as they were, by what guests read them with too.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (batch, events) = outflow_transform::fuzz::batch(data);
    let read = outflow_transform_sdk::__private::events(&batch);
    assert_eq!(read.len(), events.len());
    for (read, event) in read.iter().zip(&events) {
        assert_eq!(
            [read.id, read.event_type, read.aggregate_id, read.topic],
            event.texts.each_ref().map(String::as_str)
        );
        assert_eq!(
            (read.aggregate_version, read.schema_version, read.occurred_at_us, read.partition, read.offset),
            (
                event.aggregate_version,
                event.schema_version,
                event.occurred_at_us,
                event.partition,
                event.offset
            )
        );
        assert_eq!(read.payload, event.payload);
        let headers = event.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        assert!(read.headers.iter().eq(headers));
    }
});

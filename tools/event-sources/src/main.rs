//! Plays what AWS triggers: schedules, Kafka batches and asynchronous invocations

fn main() {}

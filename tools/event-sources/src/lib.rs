//! Plays what AWS triggers on a laptop: schedules, Kafka batches and asynchronous invocations.
pub mod template;

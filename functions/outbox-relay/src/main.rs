//! Lambda entry point of the outbox relay: tracing, context, run. Nothing else lives here.

mod context;
mod error;
mod handler;

use context::Context;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};

// One thread: with more of them each answer of MySQL or Kafka would be carried from one to another.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    outflow_telemetry::init();
    let context = Context::from_env().await?;
    run(service_fn(|event: LambdaEvent<handler::Tick>| handler::handle(&context, event))).await
}

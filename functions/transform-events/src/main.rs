//! Lambda entry point of the transform: tracing, context, run. Nothing else lives here.

mod aftermath;
mod context;
mod error;
mod handler;
mod work;

use context::Context;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use outflow_kafka_batch::KafkaEvent;

#[tokio::main]
async fn main() -> Result<(), Error> {
    outflow_telemetry::init();
    let context = Context::from_env().await?;
    run(service_fn(|event: LambdaEvent<KafkaEvent>| handler::handle(&context, event))).await
}

//! Lambda entry point of `POST /orders`: tracing, context, run. Nothing else lives here.

mod context;
mod error;
mod handler;

use context::Context;
use lambda_http::{Error, Request, run, service_fn};

#[tokio::main]
async fn main() -> Result<(), Error> {
    outflow_telemetry::init();
    let context = Context::from_env()?;
    run(service_fn(|request: Request| handler::handle(&context, request))).await
}

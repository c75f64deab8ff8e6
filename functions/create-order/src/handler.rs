//! One request: parse, write, nudge, answer.

use crate::{context::Context, error::Problem};
use lambda_http::{
    Body, Error, Request, Response,
    http::{Method, StatusCode, header},
};
use outflow_domain::{Order, OrderId, OrderRequest};
use outflow_store::TraceParent;
use time::OffsetDateTime;
use uuid::Uuid;

/// Answers 201 with the order, or a problem as `application/problem+json`.
pub(crate) async fn handle(context: &Context, request: Request) -> Result<Response<Body>, Error> {
    match create(context, &request).await {
        Ok(order) => {
            tracing::info!(order_id = %order.id, items = order.item_count, total = %order.total, "order created");
            let response = Response::builder()
                .status(StatusCode::CREATED)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::LOCATION, format!("/orders/{}", order.id));
            Ok(response.body(Body::Text(serde_json::to_string(&order)?))?)
        }
        Err(problem) => problem.into_response(),
    }
}

async fn create(context: &Context, request: &Request) -> Result<Order, Problem> {
    if request.method() != Method::POST {
        return Err(Problem::method_not_allowed(request.method()));
    }
    let trace = trace(request);
    let request = OrderRequest::from_json(request.body())?;
    let order = context.store.create_order(
        OrderId(Uuid::now_v7()),
        &request,
        OffsetDateTime::now_utc(),
        &trace,
        Uuid::now_v7,
    );
    let order = order.await?;
    // Before the answer: Lambda freezes the process behind it. Nothing that happens here can fail the order.
    context.nudge.wake(context.store.sleeping_relay()).await;
    Ok(order)
}

/// The caller's trace. One that cannot be read is replaced, as the W3C wants it.
fn trace(request: &Request) -> TraceParent {
    let header = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    header.and_then(|text| text.parse().ok()).unwrap_or_else(TraceParent::random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_trace_is_kept_and_a_missing_or_broken_one_replaced() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let with = |value: &str| {
            let mut request = Request::new(Body::Empty);
            request.headers_mut().insert("traceparent", value.parse().expect("a header's value"));
            trace(&request)
        };

        assert_eq!(with(good).as_str(), good);
        for made in [with("00-1"), trace(&Request::new(Body::Empty))] {
            assert!(made.as_str().ends_with("-01"), "{made}");
        }
    }
}

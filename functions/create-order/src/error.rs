//! What a caller is told when an order cannot be taken: problem details, RFC 9457. No SQL and no inner name leaves.

use lambda_http::{
    Body, Error, Response,
    http::{Method, StatusCode, header},
};
use outflow_domain::{FieldError, InvalidRequest};
use outflow_store::{Shortage, StoreError};
use outflow_telemetry::chain;
use serde::Serialize;

/// How long a caller should wait before it asks again, in seconds: about a restart of MySQL.
const RETRY_AFTER_S: &str = "5";
const UNAVAILABLE: &str = "urn:outflow:problem:unavailable";

#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    /// Stable: programs tell problems apart by it. A URN, so that it promises no page.
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    #[serde(serialize_with = "as_number")]
    status: StatusCode,
    detail: String,
    /// One entry a field that cannot be taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub(crate) fn method_not_allowed(method: &Method) -> Self {
        let detail = format!("{method} is not allowed here: send POST");
        Self::new(
            "urn:outflow:problem:method-not-allowed",
            "Method not allowed",
            StatusCode::METHOD_NOT_ALLOWED,
            detail,
        )
    }

    fn new(kind: &'static str, title: &'static str, status: StatusCode, detail: String) -> Self {
        Self { kind, title, status, detail, errors: Vec::new() }
    }

    fn with_errors(self, errors: Vec<FieldError>) -> Self {
        Self { errors, ..self }
    }

    pub(crate) fn into_response(self) -> Result<Response<Body>, Error> {
        let mut response =
            Response::builder().status(self.status).header(header::CONTENT_TYPE, "application/problem+json");
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response = response.header(header::ALLOW, "POST");
        }
        if self.kind == UNAVAILABLE {
            response = response.header(header::RETRY_AFTER, RETRY_AFTER_S);
        }
        Ok(response.body(Body::Text(serde_json::to_string(&self)?))?)
    }
}

impl From<InvalidRequest> for Problem {
    fn from(error: InvalidRequest) -> Self {
        let detail = error.to_string();
        match error {
            InvalidRequest::Malformed(_) => Self::new(
                "urn:outflow:problem:malformed-json",
                "The body is not JSON",
                StatusCode::BAD_REQUEST,
                detail,
            ),
            InvalidRequest::Fields(fields) => Self::new(
                "urn:outflow:problem:invalid-order",
                "The order cannot be taken",
                StatusCode::UNPROCESSABLE_ENTITY,
                detail,
            )
            .with_errors(fields),
            InvalidRequest::TooLarge { .. } => Self::new(
                "urn:outflow:problem:body-too-large",
                "The body is too large",
                StatusCode::PAYLOAD_TOO_LARGE,
                detail,
            ),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::UnknownProducts(unknown) => {
                let unknown = unknown.0.into_iter().map(|(index, id)| FieldError {
                    pointer: format!("/items/{index}/productId"),
                    detail: format!("product {id} is not in the catalogue"),
                });
                let detail = "the order names products that the catalogue does not hold".to_owned();
                Self::new(
                    "urn:outflow:problem:unknown-product",
                    "Unknown product",
                    StatusCode::UNPROCESSABLE_ENTITY,
                    detail,
                )
                .with_errors(unknown.collect())
            }
            StoreError::OutOfStock(shortages) => {
                let detail = "there is too little stock for the order; nothing was reserved".to_owned();
                Self::new(
                    "urn:outflow:problem:out-of-stock",
                    "Too little stock",
                    StatusCode::CONFLICT,
                    detail,
                )
                .with_errors(shortages.iter().map(shortage).collect())
            }
            StoreError::OutcomeUnknown { order_id, .. } => {
                tracing::error!(error = chain(&error), "order may have been taken");
                // Not "try again": whoever does may order twice.
                let detail = format!(
                    "order {order_id} may have been taken: look whether it exists before you order again"
                );
                Self::new(
                    "urn:outflow:problem:outcome-unknown",
                    "Outcome unknown",
                    StatusCode::SERVICE_UNAVAILABLE,
                    detail,
                )
            }
            error if error.is_unavailable() => {
                tracing::warn!(error = chain(&error), "order not taken, mysql is away or busy");
                let detail =
                    "orders cannot be taken at the moment; nothing was written, try again".to_owned();
                Self::new(UNAVAILABLE, "Not available", StatusCode::SERVICE_UNAVAILABLE, detail)
            }
            error => {
                tracing::error!(error = chain(&error), "order not taken");
                let detail = "the order could not be taken; nothing was written".to_owned();
                Self::new(
                    "urn:outflow:problem:internal",
                    "Internal error",
                    StatusCode::INTERNAL_SERVER_ERROR,
                    detail,
                )
            }
        }
    }
}

fn shortage(shortage: &Shortage) -> FieldError {
    let Shortage { index, product_id, requested, available } = shortage;
    FieldError {
        pointer: format!("/items/{index}/quantity"),
        detail: format!("{requested} of product {product_id} wanted, {available} left"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn a_problem_names_field_and_limit_and_nothing_within() {
        let error = outflow_domain::OrderRequest::from_json(br#"{"userId": "u", "items": []}"#).unwrap_err();

        let body = serde_json::to_string_pretty(&Problem::from(error)).unwrap();

        expect![[r#"
            {
              "type": "urn:outflow:problem:invalid-order",
              "title": "The order cannot be taken",
              "status": 422,
              "detail": "/items of the request cannot be taken",
              "errors": [
                {
                  "pointer": "/items",
                  "detail": "must have 1 to 100 items, has 0"
                }
              ]
            }"#]]
        .assert_eq(&body);
    }

    #[test]
    fn a_database_that_is_away_is_a_503_without_its_cause() {
        let problem = Problem::from(StoreError::Connect(sqlx::Error::PoolTimedOut));

        assert_eq!(problem.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(!problem.detail.contains("pool"), "{}", problem.detail);
    }

    #[test]
    fn a_commit_without_an_answer_is_not_told_as_nothing_written() {
        let order_id = outflow_domain::OrderId(uuid::Uuid::nil());
        let source = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let problem = Problem::from(StoreError::OutcomeUnknown { order_id, source });

        assert!(problem.detail.contains(&order_id.to_string()), "{}", problem.detail);
        assert!(!problem.detail.contains("nothing was written"), "{}", problem.detail);
        let response = problem.into_response().unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
    }
}

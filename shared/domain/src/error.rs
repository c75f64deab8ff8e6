//! What is wrong with a request, field by field.

use serde::Serialize;

/// One field that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON pointer into the request's body, RFC 6901; "" is the body itself.
    pub pointer: String,
    /// What is wrong and, where there is one, the limit.
    pub detail: String,
}

/// A request that cannot be taken. Nothing of it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    #[error("the body is not JSON: {0}")]
    Malformed(String),
    #[error("{} of the request cannot be taken", fields_text(.0))]
    Fields(Vec<FieldError>),
    #[error("the body has {bytes} bytes, at most {limit} are taken")]
    TooLarge { bytes: usize, limit: usize },
}

fn fields_text(fields: &[FieldError]) -> String {
    let pointers: Vec<_> = fields.iter().map(|field| field.pointer.as_str()).collect();
    pointers.join(", ")
}

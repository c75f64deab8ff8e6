//! Ids that cannot be mixed up, and that hold only what every store and topic can carry.

use crate::limit;
use serde::Serialize;
use std::fmt;
use uuid::Uuid;

/// The id of an order, a UUIDv7: ids sort by the time of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct OrderId(pub Uuid);

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes 1 to 64 of the characters A-Z a-z 0-9 . _ : @ -
            ///
            /// # Errors
            /// Says which of the two limits is broken.
            pub fn parse(text: &str) -> Result<Self, String> {
                check_text_id(text)?;
                Ok(Self(text.to_owned()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// Who orders, as the shop's accounts name them.
    UserId
);
text_id!(
    /// What is sold, as the catalogue names it.
    ProductId
);

fn check_text_id(text: &str) -> Result<(), String> {
    let chars = text.chars().count();
    if chars == 0 || chars > limit::ID_CHARS {
        return Err(format!("must have 1 to {} characters, has {chars}", limit::ID_CHARS));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '@' | '-');
    match text.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(format!("may hold A-Z a-z 0-9 . _ : @ - only, holds {c:?}")),
        None => Ok(()),
    }
}

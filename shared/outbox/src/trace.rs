//! The W3C's `traceparent`, so that a trace goes on behind the broker.
//! <https://www.w3.org/TR/trace-context/#traceparent-header>

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
    str::FromStr,
};

/// The header's name.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// The caller's place in a trace: `00-<trace id>-<parent id>-<flags>`, hexadecimal in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "wants 00-<32 hexadecimal digits>-<16>-<2>, in lower case, neither id all zeros: 55 characters, has {size}"
)]
pub struct InvalidTraceParent {
    /// Bytes of what was given.
    pub size: usize,
}

impl TraceParent {
    /// The first of a trace that is sampled.
    pub fn new(trace_id: NonZeroU128, parent_id: NonZeroU64) -> Self {
        Self(format!("00-{trace_id:032x}-{parent_id:016x}-01"))
    }

    /// The first of a trace that is sampled, with random ids.
    pub fn random() -> Self {
        Self::new(rand::random(), rand::random())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    /// Takes a later version than 00 as well, as the W3C wants it: its first four fields, told as version 00.
    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut fields = text.split('-');
        let mut field = |digits: usize| {
            let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            fields.next().filter(|field| field.len() == digits && field.bytes().all(hex))
        };
        let fields_of_00 = (field(2), field(32), field(16), field(2));
        let (Some(version), Some(trace_id), Some(parent_id), Some(flags)) = fields_of_00 else {
            return Err(InvalidTraceParent { size: text.len() });
        };
        let is_zero = |id: &str| id.bytes().all(|c| c == b'0');
        let more = fields.next().is_some();
        if version == "ff" || (version == "00" && more) || is_zero(trace_id) || is_zero(parent_id) {
            return Err(InvalidTraceParent { size: text.len() });
        }
        Ok(Self(format!("00-{trace_id}-{parent_id}-{flags}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_well_formed_stays_as_it_is_and_a_later_version_is_told_as_00() {
        let parsed = |text: &str| text.parse::<TraceParent>().map(|trace| trace.to_string());

        assert_eq!(parsed(GOOD).as_deref(), Ok(GOOD));
        assert_eq!(parsed(&GOOD.replacen("00", "cc", 1)).as_deref(), Ok(GOOD));
        assert_eq!(parsed(&format!("{}-more", GOOD.replacen("00", "cc", 1))).as_deref(), Ok(GOOD));
    }

    #[test]
    fn what_is_not_well_formed_is_refused_with_its_size() {
        let zero_trace = GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_parent = GOOD.replace("00f067aa0ba902b7", &"0".repeat(16));
        let upper = GOOD.to_uppercase();
        let version_ff = GOOD.replacen("00", "ff", 1);
        let longer = format!("{GOOD}-more");
        let sign = GOOD.replacen("4b", "+b", 1);
        for bad in ["", "00-1", &GOOD[1..], &zero_trace, &zero_parent, &upper, &version_ff, &longer, &sign] {
            assert_eq!(bad.parse::<TraceParent>(), Err(InvalidTraceParent { size: bad.len() }), "{bad}");
        }
    }

    #[test]
    fn a_new_trace_is_well_formed_sampled_and_its_own() {
        let (first, second) = (TraceParent::random(), TraceParent::random());

        assert_eq!(first.as_str().parse().as_ref(), Ok(&first));
        assert!(first.as_str().ends_with("-01"), "{first}");
        assert_ne!(first, second);
    }
}

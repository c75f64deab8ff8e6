//! The words of the host: events, outcomes, digests, generations. No wasmtime type is seen here.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::{fmt, str::FromStr, sync::Arc};

/// One event as it came from the broker. Times are microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    pub id: &'a str,
    pub event_type: &'a str,
    pub aggregate_id: &'a str,
    /// 1, 2, 3 … for each aggregate.
    pub aggregate_version: u64,
    pub schema_version: u32,
    pub occurred_at_us: i64,
    /// When the broker got it. The module doesn't see it: a repeated delivery has another.
    pub relayed_at_us: i64,
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    pub headers: &'a [(String, Vec<u8>)],
    pub payload: &'a [u8],
    /// Made by Outflow itself to measure the way; figures leave its rows out. The module doesn't see it.
    pub is_canary: bool,
}

/// What the host adds to the rows of one batch.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    pub generation: Generation,
    /// Microseconds since 1970-01-01 UTC.
    pub transformed_at_us: i64,
}

/// What came of a batch: outcome `i` belongs to event `i`.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// As long as the batch, or shorter where `unfinished` says why.
    pub outcomes: Vec<Outcome>,
    /// The events from this one on weren't decided: give them again later.
    pub unfinished: Option<Unfinished>,
}

impl Batch {
    /// Nothing of it was decided.
    pub fn undecided(reason: &str) -> Self {
        Self { outcomes: Vec::new(), unfinished: Some(Unfinished { from: 0, reason: reason.to_owned() }) }
    }
}

/// Why a batch stopped before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Index of the first event without an outcome.
    pub from: usize,
    pub reason: String,
}

/// The rows of one event. Most have one, for which nothing is allocated.
pub type Rows = SmallVec<[Row; 1]>;

/// What became of one event.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Rows(Rows),
    Skip,
    Reject(Rejection),
}

impl Outcome {
    /// Bytes of its rows as JSON.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.iter().map(|row| row.json.len()).sum(),
            Self::Skip | Self::Reject(_) => 0,
        }
    }
}

/// A checked row, ready to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// Name of the table, which is also the name of its topic.
    pub table: Arc<str>,
    /// A JSON object with every column of the table, the host's included.
    pub json: Vec<u8>,
}

/// Why an event can't become rows. Permanent: the same module will say the same again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub stage: Stage,
    /// Short and stable; dead letters are grouped by it.
    pub code: String,
    pub message: String,
}

/// Who rejected an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The module said so.
    Module,
    /// The module trapped on it, alone in a fresh instance.
    Trap,
    /// The host: the row doesn't fit its table.
    Row,
}

impl Stage {
    /// As written in a dead letter's header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::Trap => "trap",
            Self::Row => "row",
        }
    }
}

/// SHA-256 of a module's bytes, in lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no digest: 64 lower-case hex digits are")]
pub struct InvalidDigest(String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(hex::encode(sha2::Sha256::digest(bytes)).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Enough of it for people: 12 digits.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex { Ok(Self(text.into())) } else { Err(InvalidDigest(text.to_owned())) }
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0.as_ref().to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Number of an activation: 1, 2, 3 … It is the lower 24 bits of every row's version, so that what a later
/// activation writes beats what an earlier one wrote for the same state of an aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Generation(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("generation {0} is outside 1..={max}", max = Generation::MAX.0)]
pub struct InvalidGeneration(u32);

impl Generation {
    pub const BITS: u32 = 24;
    pub const FIRST: Self = Self(1);
    pub const MAX: Self = Self((1 << Self::BITS) - 1);

    pub fn new(number: u32) -> Result<Self, InvalidGeneration> {
        if (1..=Self::MAX.0).contains(&number) { Ok(Self(number)) } else { Err(InvalidGeneration(number)) }
    }

    pub fn get(self) -> u32 {
        self.0
    }

    pub fn next(self) -> Result<Self, InvalidGeneration> {
        Self::new(self.0 + 1)
    }
}

impl TryFrom<u32> for Generation {
    type Error = InvalidGeneration;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        Self::new(number)
    }
}

impl From<Generation> for u32 {
    fn from(generation: Generation) -> Self {
        generation.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

//! The ClickHouse column types that a transform may declare and the loader writes: one list for both.
//!
//! Must not: know of any value, of JSON, of WASM or of a connection.

use std::{fmt, str::FromStr};

/// A type that a column may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnType {
    kind: Kind,
    nullable: bool,
    low_cardinality: bool,
}

/// A type without what may stand around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    String,
    Uuid,
    Bool,
    /// Bits: 8, 16, 32 or 64.
    Int(u32),
    UInt(u32),
    /// A precision of 1 to 38 digits, of which `scale` stand behind the point.
    Decimal {
        precision: u32,
        scale: u32,
    },
    /// Digits of a second, 0 to 6, in UTC.
    DateTime64(u32),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "type '{0}' isn't supported: use String, UUID, Bool, (U)Int8 to (U)Int64, Decimal(P, S) up to 38 digits, \
     DateTime64(0 to 6, 'UTC'), with Nullable(T) or LowCardinality(String) around it"
)]
pub struct UnsupportedType(String);

impl ColumnType {
    pub fn kind(self) -> Kind {
        self.kind
    }

    pub fn is_nullable(self) -> bool {
        self.nullable
    }
}

impl FromStr for ColumnType {
    type Err = UnsupportedType;

    /// ClickHouse's own spelling, with or without spaces.
    fn from_str(declared: &str) -> Result<Self, Self::Err> {
        const SHOWN: usize = 60;
        let compact: String = declared.chars().filter(|c| !c.is_whitespace()).collect();
        parse(&compact).ok_or_else(|| {
            let mut shown: String = declared.chars().take(SHOWN).collect();
            if shown.len() < declared.len() {
                shown.push('…');
            }
            UnsupportedType(shown)
        })
    }
}

fn parse(text: &str) -> Option<ColumnType> {
    let inside = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
    if let Some(inner) = inside("LowCardinality") {
        let inner = parse(inner)?;
        let allowed = inner.kind == Kind::String && !inner.low_cardinality;
        return allowed.then_some(ColumnType { low_cardinality: true, ..inner });
    }
    if let Some(inner) = inside("Nullable") {
        let inner = parse(inner)?;
        // ClickHouse has LowCardinality(Nullable(T)), not the other way round.
        let allowed = !inner.nullable && !inner.low_cardinality;
        return allowed.then_some(ColumnType { nullable: true, ..inner });
    }
    let kind = if let Some(inner) = inside("Decimal") {
        let (precision, scale) = inner.split_once(',')?;
        let (precision, scale) = (number(precision)?, number(scale)?);
        let allowed = (1..=38).contains(&precision) && scale <= precision;
        allowed.then_some(Kind::Decimal { precision, scale })?
    } else if let Some(inner) = inside("DateTime64") {
        let digits = number(inner.strip_suffix(",'UTC'")?)?;
        (digits <= 6).then_some(Kind::DateTime64(digits))?
    } else {
        match text {
            "String" => Kind::String,
            "UUID" => Kind::Uuid,
            "Bool" => Kind::Bool,
            "Int8" => Kind::Int(8),
            "Int16" => Kind::Int(16),
            "Int32" => Kind::Int(32),
            "Int64" => Kind::Int(64),
            "UInt8" => Kind::UInt(8),
            "UInt16" => Kind::UInt(16),
            "UInt32" => Kind::UInt(32),
            "UInt64" => Kind::UInt(64),
            _ => return None,
        }
    };
    Some(ColumnType { kind, nullable: false, low_cardinality: false })
}

/// Digits alone: `str::parse` would take a plus sign too.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

impl fmt::Display for ColumnType {
    /// As ClickHouse's `system.columns` spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::String => "String".to_owned(),
            Kind::Uuid => "UUID".to_owned(),
            Kind::Bool => "Bool".to_owned(),
            Kind::Int(bits) => format!("Int{bits}"),
            Kind::UInt(bits) => format!("UInt{bits}"),
            Kind::Decimal { precision, scale } => format!("Decimal({precision}, {scale})"),
            Kind::DateTime64(digits) => format!("DateTime64({digits}, 'UTC')"),
        };
        match (self.low_cardinality, self.nullable) {
            (false, false) => f.write_str(&kind),
            (false, true) => write!(f, "Nullable({kind})"),
            (true, false) => write!(f, "LowCardinality({kind})"),
            (true, true) => write!(f, "LowCardinality(Nullable({kind}))"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_in_clickhouse_spelling_and_written_back() {
        for (declared, canonical) in [
            ("String", "String"),
            ("LowCardinality(String)", "LowCardinality(String)"),
            ("LowCardinality(Nullable(String))", "LowCardinality(Nullable(String))"),
            ("Nullable(UInt32)", "Nullable(UInt32)"),
            ("Decimal(18,2)", "Decimal(18, 2)"),
            ("DateTime64(3,'UTC')", "DateTime64(3, 'UTC')"),
        ] {
            let column: ColumnType = declared.parse().expect(declared);
            assert_eq!(column.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(column));
        }
    }

    #[test]
    fn a_type_that_json_could_not_carry_exactly_is_refused() {
        for unsupported in [
            "",
            "Float64",
            "DateTime64(3)",
            "DateTime64(3, 'Asia/Seoul')",
            "DateTime64(9, 'UTC')",
            "Decimal(39, 2)",
            "Decimal(2, 3)",
            "Decimal(+9, 2)",
            "UInt128",
            "Nullable(Nullable(String))",
            "Nullable(LowCardinality(String))",
            "LowCardinality(UInt8)",
            "Array(String)",
            "string",
        ] {
            assert!(unsupported.parse::<ColumnType>().is_err(), "{unsupported} was taken");
        }
    }
}

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

/// One step at a time, as deep as a type may be: the text is a module's, and may be nested as deep as it is long.
fn parse(text: &str) -> Option<ColumnType> {
    let around = |text, name| inside(text, name).map_or((text, false), |inner| (inner, true));
    // ClickHouse has LowCardinality(Nullable(T)), not the other way round.
    let (text, low_cardinality) = around(text, "LowCardinality");
    let (text, nullable) = around(text, "Nullable");
    let kind = kind(text)?;
    (kind == Kind::String || !low_cardinality).then_some(ColumnType { kind, nullable, low_cardinality })
}

fn inside<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')
}

fn kind(text: &str) -> Option<Kind> {
    if let Some(inner) = inside(text, "Decimal") {
        let (precision, scale) = inner.split_once(',')?;
        let (precision, scale) = (number(precision)?, number(scale)?);
        let allowed = (1..=38).contains(&precision) && scale <= precision;
        return allowed.then_some(Kind::Decimal { precision, scale });
    }
    if let Some(inner) = inside(text, "DateTime64") {
        let digits = number(inner.strip_suffix(",'UTC'")?)?;
        return (digits <= 6).then_some(Kind::DateTime64(digits));
    }
    Some(match text {
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
    })
}

/// Digits alone, as they are written: `str::parse` would take a plus sign and zeros before them too.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
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
            "Decimal(09, 2)",
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

    /// The text is a module's: no depth of it may end in a stack overflow, which would take the process with it.
    #[test]
    fn a_type_within_a_type_within_a_type_is_refused_however_deep() {
        for name in ["Nullable", "LowCardinality"] {
            let deep = format!("{}String{}", format!("{name}(").repeat(100_000), ")".repeat(100_000));
            assert!(deep.parse::<ColumnType>().is_err());
        }
    }
}

//! What a benchmark answers: figures with their baselines, as a table and as JSON.
#![expect(clippy::float_arithmetic, reason = "rates and times; money never comes here")]

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, path::Path, time::Duration};

/// One figure, or one comparison. A figure with two baselines has two entries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    name: Cow<'static, str>,
    value: f64,
    unit: Cow<'static, str>,
    baseline: Option<Cow<'static, str>>,
    baseline_value: Option<f64>,
    /// value / baseline_value.
    #[serde(default)]
    ratio: Option<f64>,
}

impl Entry {
    pub(super) fn alone(name: &'static str, value: f64, unit: &'static str) -> Self {
        let (name, unit) = (name.into(), unit.into());
        Self { name, value, unit, baseline: None, baseline_value: None, ratio: None }.finished()
    }

    pub(super) fn against(
        name: &'static str,
        value: f64,
        unit: &'static str,
        baseline: &'static str,
        baseline_value: f64,
    ) -> Self {
        let (name, unit, baseline) = (name.into(), unit.into(), Some(baseline.into()));
        Self { name, value, unit, baseline, baseline_value: Some(baseline_value), ratio: None }.finished()
    }

    /// With its ratio, and rounded.
    pub(super) fn finished(self) -> Self {
        let ratio = self.baseline_value.map(|baseline_value| rounded(self.value / baseline_value));
        Self {
            value: rounded(self.value),
            baseline_value: self.baseline_value.map(rounded),
            ratio,
            ..self
        }
    }
}

/// So many in this time, a second.
pub(super) fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// Milliseconds of a signed time in microseconds.
pub(super) fn millis_of(micros: i64) -> f64 {
    micros as f64 / 1_000.0
}

/// Microseconds for each of `count`.
pub(super) fn micros_each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1_000_000.0 / count as f64
}

pub(super) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1_000_000.0
}

/// The middle one; of an even number, the mean of the two in the middle.
///
/// # Panics
/// Where there is none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    assert!(!values.is_empty(), "a median of nothing");
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    }
}

/// To four significant digits, and to the unit above that: a benchmark knows no more.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = (3.0 - value.abs().log10().floor()).max(0.0);
    let scale = 10_f64.powf(digits);
    (value * scale).round() / scale
}

pub(super) fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "",
        "value",
        "unit",
        "baseline",
        "its value",
        "ratio",
    ]);
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    for entry in entries {
        table.add_row([
            entry.name.to_string(),
            entry.value.to_string(),
            entry.unit.to_string(),
            entry.baseline.as_deref().unwrap_or_default().to_owned(),
            number(entry.baseline_value),
            number(entry.ratio),
        ]);
    }
    for column in [1, 4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Writes the list to `file`; `-` is stdout.
pub(super) fn write_json(file: &Path, entries: &[Entry]) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(entries)?;
    text.push('\n');
    if file == Path::new("-") {
        print!("{text}");
        return Ok(());
    }
    std::fs::write(file, text).with_context(|| format!("could not write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_a_baseline_has_nulls() {
        let entry = Entry::alone("relay.memory", 61.234_5, "MiB");
        assert_eq!(
            serde_json::to_value(entry).unwrap(),
            serde_json::json!({"name": "relay.memory", "value": 61.23, "unit": "MiB", "baseline": null,
                "baseline_value": null, "ratio": null})
        );
    }

    #[test]
    fn a_ratio_is_value_to_baseline() {
        let entry = Entry::against("relay.drain", 152_345.6, "events/s", "debezium", 35_000.0);
        assert_eq!((entry.value, entry.ratio), (152_346.0, Some(4.353)));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}

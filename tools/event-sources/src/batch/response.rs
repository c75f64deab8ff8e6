//! What a function answers to a batch: `{"batchItemFailures":[{"itemIdentifier":{"partition":"t-0","offset":1}}]}`.

use super::Slice;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    batch_item_failures: Option<Vec<Failure>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    item_identifier: Identifier,
}

#[derive(Deserialize)]
struct Identifier {
    partition: String,
    offset: i64,
}

/// Partition to the index of its first failure within the slice.
///
/// As Lambda reads it: nothing, null, an empty object and an empty list are a full success; whatever does not name a
/// record of this batch makes the whole batch a failure.
///
/// # Errors
/// With the reason why the whole batch has to be tried again.
pub(super) fn failures(
    body: &[u8],
    topic: &str,
    slices: &BTreeMap<i32, Slice>,
) -> Result<BTreeMap<i32, usize>, String> {
    let mut failures: BTreeMap<i32, usize> = BTreeMap::new();
    if body.is_empty() {
        return Ok(failures);
    }
    let value: serde_json::Value =
        serde_json::from_slice(body).map_err(|error| format!("the answer is not JSON: {error}"))?;
    // An answer of another shape says nothing about items, which Lambda takes for a success.
    if value.get("batchItemFailures").is_none_or(serde_json::Value::is_null) {
        return Ok(failures);
    }
    let response: Response = serde_json::from_value(value)
        .map_err(|error| format!("batchItemFailures cannot be read: {error}"))?;
    for failure in response.batch_item_failures.into_iter().flatten() {
        let Identifier { partition, offset } = failure.item_identifier;
        let unknown = || format!("batchItemFailures names {partition}@{offset}, which is not in the batch");
        let number: i32 = partition
            .strip_prefix(topic)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|number| number.parse().ok())
            .ok_or_else(unknown)?;
        let slice = slices.get(&number).ok_or_else(unknown)?;
        let index = slice.offsets.binary_search(&offset).map_err(|_| unknown())?;
        let first = failures.entry(number).or_insert(index);
        *first = index.min(*first);
    }
    Ok(failures)
}

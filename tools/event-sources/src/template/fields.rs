//! Typed reading of one resource's properties, with errors that name the resource and the field.

use super::TemplateError;
use serde_json::Value;
use std::ops::RangeInclusive;

/// A resource's properties, all intrinsics resolved.
pub(super) struct Fields<'a> {
    pub(super) resource: String,
    value: &'a Value,
}

impl<'a> Fields<'a> {
    pub(super) fn new(resource: String, value: &'a Value) -> Self {
        Self { resource, value }
    }

    pub(super) fn problem(&self, field: &str, problem: impl Into<String>) -> TemplateError {
        TemplateError::Field {
            resource: self.resource.clone(),
            field: field.to_owned(),
            problem: problem.into(),
        }
    }

    /// Missing and null are the same: not said.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.value.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn inner(&self, field: &str) -> Fields<'a> {
        Fields { resource: format!("{}.{field}", self.resource), value: &self.value[field] }
    }

    pub(super) fn text(&self, field: &str) -> Result<Option<String>, TemplateError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(self.problem(field, unusable("a text", other))),
        }
    }

    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>, TemplateError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if text == "true" || text == "false" => Ok(Some(text == "true")),
            Some(other) => Err(self.problem(field, unusable("true or false", other))),
        }
    }

    pub(super) fn integer(
        &self,
        field: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, TemplateError> {
        let signed = self.signed(field, i64::MAX)?;
        match signed {
            None => Ok(None),
            Some(number) => {
                u64::try_from(number).ok().filter(|number| range.contains(number)).map(Some).ok_or_else(
                    || {
                        let (low, high) = (range.start(), range.end());
                        self.problem(field, format!("is {number}: must be between {low} and {high}"))
                    },
                )
            }
        }
    }

    /// A bound of which -1 means that there is none.
    pub(super) fn bound(&self, field: &str, max: i64) -> Result<Option<u64>, TemplateError> {
        Ok(self.signed(field, max)?.and_then(|number| u64::try_from(number).ok()))
    }

    fn signed(&self, field: &str, max: i64) -> Result<Option<i64>, TemplateError> {
        let number = match self.get(field) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_i64(),
            Some(Value::String(text)) => text.parse().ok(),
            Some(other) => return Err(self.problem(field, unusable("a number", other))),
        };
        match number {
            Some(number) if (-1..=max).contains(&number) => Ok(Some(number)),
            _ => Err(self.problem(field, format!("must be a whole number from -1 to {max}"))),
        }
    }

    pub(super) fn texts(&self, field: &str) -> Result<Vec<String>, TemplateError> {
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text.clone()),
                    other => Err(self.problem(field, unusable("a list of texts", other))),
                })
                .collect(),
            Some(other) => Err(self.problem(field, unusable("a list of texts", other))),
        }
    }
}

fn unusable(wanted: &str, found: &Value) -> String {
    format!("must be {wanted}, found {found}: what only AWS knows can be given with --parameter NAME=VALUE")
}

//! Schedules of EventBridge.

use super::{TemplateError, fields::Fields};
use serde_json::Value;
use std::time::Duration;

/// A rule that invokes a function at a steady rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The event or rule in the template.
    pub name: String,
    pub function: String,
    pub enabled: bool,
    /// What the template says, for people.
    pub expression: String,
    /// Time from one invocation to the next as it is played here.
    pub every: Duration,
    /// The event itself; None is EventBridge's own envelope.
    pub input: Option<Value>,
}

/// A SAM event: `Schedule` and `ScheduleV2` name their expression differently.
pub(super) fn from_event(
    function: &str,
    fields: &Fields<'_>,
    expression: &str,
) -> Result<Result<Schedule, String>, TemplateError> {
    let input = fields.get("Input").cloned().unwrap_or_default();
    let enabled = match fields.text("State")?.as_deref() {
        Some(state) => state == "ENABLED",
        None => fields.flag("Enabled")?.unwrap_or(true),
    };
    schedule(function, fields, expression, &input, enabled)
}

/// One target of an `AWS::Events::Rule`.
pub(super) fn from_rule(
    function: &str,
    fields: &Fields<'_>,
    input: &Value,
) -> Result<Result<Schedule, String>, TemplateError> {
    let enabled = fields.text("State")?.is_none_or(|state| state != "DISABLED");
    schedule(function, fields, "ScheduleExpression", input, enabled)
}

/// The inner error is a note: a schedule that is understood but not played.
fn schedule(
    function: &str,
    fields: &Fields<'_>,
    field: &str,
    input: &Value,
    enabled: bool,
) -> Result<Result<Schedule, String>, TemplateError> {
    let expression = fields.text(field)?.ok_or_else(|| fields.problem(field, "is missing"))?;
    let Some(rate) = rate(&expression) else {
        return match expression.starts_with("rate(") {
            true => Err(fields.problem(field, format!("{expression:?} is not rate(N minutes|hours|days)"))),
            false => Ok(Err(format!("{}: {expression} is not played, only rate(…)", fields.resource))),
        };
    };
    let input = match input {
        Value::Null => None,
        // In a template an input is JSON within a text.
        Value::String(text) => Some(
            serde_json::from_str(text)
                .map_err(|error| fields.problem("Input", format!("is not JSON: {error}")))?,
        ),
        other => Some(other.clone()),
    };
    let (every, input) = short_ticks(rate, input);
    Ok(Ok(Schedule {
        name: fields.resource.clone(),
        function: function.to_owned(),
        enabled,
        expression,
        every,
        input,
    }))
}

/// EventBridge's finest rate is a minute, so an input of `every_s` and `for_s` makes one invocation tick within it.
/// Here there is one instance of a function, which such an invocation would hold for the whole minute: instead each
/// tick is an invocation of its own, with `for_s` 0, which means "once".
fn short_ticks(rate: Duration, input: Option<Value>) -> (Duration, Option<Value>) {
    let Some(Value::Object(mut input)) = input else { return (rate, input) };
    match input.get("every_s").and_then(Value::as_u64) {
        Some(every) if every > 0 && Duration::from_secs(every) < rate => {
            input.insert("for_s".to_owned(), 0.into());
            (Duration::from_secs(every), Some(Value::Object(input)))
        }
        _ => (rate, Some(Value::Object(input))),
    }
}

fn rate(expression: &str) -> Option<Duration> {
    let (number, unit) = expression.strip_prefix("rate(")?.strip_suffix(')')?.split_once(' ')?;
    let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
    let seconds = match unit.trim_end_matches('s') {
        "minute" => 60,
        "hour" => 3_600,
        "day" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

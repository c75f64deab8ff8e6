//! What a SAM or CloudFormation template says about triggers: functions, schedules, Kafka event source mappings.
//!
//! Read: `AWS::Serverless::Function` with its events `Schedule`, `ScheduleV2`, `MSK` and `SelfManagedKafka`,
//! `AWS::Lambda::Function`, `AWS::Lambda::EventSourceMapping` on Kafka, `AWS::Events::Rule`.
//!
//! Must not: invoke, poll or guess. What cannot be read is an error with the resource's and the field's name; what is
//! read but cannot be played is a note.

mod fields;
mod mapping;
mod resolve;
mod schedule;
mod yaml;

pub use mapping::{EventSource, Mapping, StartingPosition};
pub use schedule::Schedule;

use fields::Fields;
use resolve::Resolver;
use serde_json::Value;
use std::{collections::BTreeMap, path::Path, time::Duration};

/// Lambda's own default, seconds.
const DEFAULT_TIMEOUT_S: u64 = 3;

/// How often Lambda tries an asynchronous invocation again unless the template says otherwise.
const DEFAULT_ASYNC_RETRIES: u64 = 2;

/// Why a template could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("cannot read the template {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} is neither YAML nor JSON: {message}")]
    Parse { path: String, message: String },
    #[error("{resource}: {field} {problem}")]
    Field { resource: String, field: String, problem: String },
    #[error("parameter {name} is not declared in the template")]
    UnknownParameter { name: String },
}

/// A function as its triggers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// The name it is invoked by: the binary's, which is what `cargo lambda watch` knows.
    pub name: String,
    pub logical_id: String,
    /// How long AWS lets an invocation run.
    pub timeout: Duration,
    /// `ReservedConcurrentExecutions`: at most so many invocations at once.
    pub concurrency: Option<usize>,
    /// Asynchronous invocations are tried again so often after an error of the function.
    pub async_retries: u32,
    /// While one asynchronous invocation waits, further ones add nothing (`Metadata: EventSources:
    /// CoalesceAsyncInvocations: true`). Only right for a function to which all payloads mean the same.
    pub coalesce: bool,
}

/// All that a template says about triggers.
#[derive(Clone, Debug, Default)]
pub struct Template {
    pub functions: Vec<Function>,
    pub schedules: Vec<Schedule>,
    pub mappings: Vec<Mapping>,
    /// What the template asks for and nobody plays here, one line each.
    pub notes: Vec<String>,
}

impl Template {
    /// Reads a template file; `parameters` override its defaults.
    ///
    /// # Errors
    /// If the file cannot be read or parsed, or a field of a trigger has no usable value.
    pub fn read(path: &Path, parameters: &BTreeMap<String, String>) -> Result<Self, TemplateError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| TemplateError::Read { path: shown.clone(), source })?;
        Self::parse(&text, &shown, parameters)
    }

    /// Reads a template's text; `path` only names it in errors.
    ///
    /// # Errors
    /// As [`Template::read`].
    pub fn parse(
        text: &str,
        path: &str,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Self, TemplateError> {
        let raw =
            yaml::parse(text).map_err(|message| TemplateError::Parse { path: path.to_owned(), message })?;
        if let Some(name) = parameters.keys().find(|name| raw["Parameters"].get(name.as_str()).is_none()) {
            return Err(TemplateError::UnknownParameter { name: name.clone() });
        }
        let resolver = Resolver::new(&raw, parameters);
        let globals = resolver.resolve(&raw["Globals"]["Function"]);
        let mut template = Self::default();
        let resources: Vec<(&String, Value)> = raw["Resources"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, resource)| (name, resolver.resolve(resource)))
            .collect();
        let mut aliases = Aliases::default();
        for (logical_id, resource) in &resources {
            if is_function(resource) {
                let function = function(logical_id, resource, &globals)?;
                aliases.add(&function, resource);
                template.functions.push(function);
            }
        }
        for (logical_id, resource) in &resources {
            template.triggers(logical_id, resource, &aliases)?;
        }
        Ok(template)
    }

    fn triggers(
        &mut self,
        logical_id: &str,
        resource: &Value,
        aliases: &Aliases,
    ) -> Result<(), TemplateError> {
        match resource["Type"].as_str().unwrap_or_default() {
            "AWS::Serverless::Function" => {
                let function = aliases.find(logical_id).unwrap_or(logical_id).to_owned();
                for (name, event) in resource["Properties"]["Events"].as_object().into_iter().flatten() {
                    let properties = Fields::new(format!("{logical_id}.Events.{name}"), &event["Properties"]);
                    match event["Type"].as_str().unwrap_or_default() {
                        "Schedule" => {
                            self.schedule(schedule::from_event(&function, &properties, "Schedule")?)
                        }
                        "ScheduleV2" => {
                            self.schedule(schedule::from_event(&function, &properties, "ScheduleExpression")?)
                        }
                        kind @ ("MSK" | "SelfManagedKafka") => {
                            let source =
                                if kind == "MSK" { EventSource::Msk } else { EventSource::SelfManaged };
                            self.notes.extend(mapping::notes(&properties));
                            self.mappings.extend(mapping::from_event(&function, &properties, source)?);
                        }
                        // HTTP reaches the functions without us.
                        "HttpApi" | "Api" => {}
                        other => {
                            self.notes.push(format!("{logical_id}.Events.{name}: {other} is not played"))
                        }
                    }
                }
            }
            "AWS::Lambda::EventSourceMapping" => {
                let properties = Fields::new(logical_id.to_owned(), &resource["Properties"]);
                let target = properties.text("FunctionName")?.unwrap_or_default();
                let function = aliases.find(&target).map(str::to_owned).ok_or_else(|| {
                    properties.problem("FunctionName", format!("{target:?} is no function of this template"))
                })?;
                match mapping::from_resource(&function, &properties)? {
                    Some(mapping) => {
                        self.notes.extend(mapping::notes(&properties));
                        self.mappings.push(mapping);
                    }
                    None => self.notes.push(format!("{logical_id}: only Kafka event sources are played")),
                }
            }
            "AWS::Events::Rule" => {
                let properties = Fields::new(logical_id.to_owned(), &resource["Properties"]);
                for target in resource["Properties"]["Targets"].as_array().into_iter().flatten() {
                    let arn = target["Arn"].as_str().unwrap_or_default();
                    match aliases.find(arn) {
                        Some(function) => {
                            self.schedule(schedule::from_rule(function, &properties, &target["Input"])?)
                        }
                        None => self.notes.push(format!("{logical_id}: target {arn:?} is no function here")),
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn schedule(&mut self, outcome: Result<Schedule, String>) {
        match outcome {
            Ok(schedule) => self.schedules.push(schedule),
            Err(note) => self.notes.push(note),
        }
    }

    /// The function of this name.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|function| function.name == name)
    }
}

fn is_function(resource: &Value) -> bool {
    matches!(resource["Type"].as_str(), Some("AWS::Serverless::Function" | "AWS::Lambda::Function"))
}

fn function(logical_id: &str, resource: &Value, globals: &Value) -> Result<Function, TemplateError> {
    let properties = Fields::new(logical_id.to_owned(), &resource["Properties"]);
    let globals = Fields::new("Globals.Function".to_owned(), globals);
    let timeout = match properties.integer("Timeout", 1..=900)? {
        Some(seconds) => Some(seconds),
        None => globals.integer("Timeout", 1..=900)?,
    };
    let metadata = &resource["Metadata"];
    let invoke = properties.inner("EventInvokeConfig");
    Ok(Function {
        name: name(logical_id, resource),
        logical_id: logical_id.to_owned(),
        timeout: Duration::from_secs(timeout.unwrap_or(DEFAULT_TIMEOUT_S)),
        concurrency: properties
            .integer("ReservedConcurrentExecutions", 1..=1000)?
            .and_then(|limit| usize::try_from(limit).ok()),
        async_retries: invoke
            .integer("MaximumRetryAttempts", 0..=2)?
            .unwrap_or(DEFAULT_ASYNC_RETRIES)
            .try_into()
            .unwrap_or_default(),
        coalesce: metadata["EventSources"]["CoalesceAsyncInvocations"] == true,
    })
}

/// The binary's name: what the build is told, else the code's folder, else what AWS would call it.
fn name(logical_id: &str, resource: &Value) -> String {
    let properties = &resource["Properties"];
    if let Some(binary) = resource["Metadata"]["BuildProperties"]["Binary"].as_str() {
        return binary.to_owned();
    }
    let folder = properties["CodeUri"].as_str().unwrap_or_default().trim_end_matches('/');
    let folder = folder.rsplit('/').next().unwrap_or_default();
    match folder {
        "" | "." | ".." => properties["FunctionName"].as_str().unwrap_or(logical_id).to_owned(),
        folder => folder.to_owned(),
    }
}

/// The ways in which a template names one of its functions.
#[derive(Default)]
struct Aliases(BTreeMap<String, String>);

impl Aliases {
    fn add(&mut self, function: &Function, resource: &Value) {
        let declared = resource["Properties"]["FunctionName"].as_str().unwrap_or(&function.logical_id);
        for alias in [function.logical_id.as_str(), &function.name, declared] {
            self.0.insert(alias.to_owned(), function.name.clone());
        }
    }

    /// By logical id, name or ARN.
    fn find(&self, reference: &str) -> Option<&str> {
        let name = reference.rsplit(':').next().unwrap_or(reference);
        self.0.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests;

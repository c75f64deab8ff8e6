//! CloudFormation's intrinsic functions, as far as a laptop can answer them.
//!
//! What only AWS knows (an import, a secret, an attribute of a foreign resource) stays as it is: whoever needs that
//! very value says so with the field's name.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What AWS answers for its pseudo parameters, on a laptop.
const PSEUDO_PARAMETERS: [(&str, &str); 7] = [
    ("AWS::AccountId", "000000000000"),
    ("AWS::Partition", "aws"),
    ("AWS::Region", "local"),
    ("AWS::StackId", "arn:aws:cloudformation:local:000000000000:stack/local/local"),
    ("AWS::StackName", "local"),
    ("AWS::URLSuffix", "amazonaws.com"),
    ("AWS::NotificationARNs", ""),
];

/// Deeper than any sane nesting; a condition that names itself ends here.
const MAX_DEPTH: u8 = 32;

/// Resolves references within one template.
pub(super) struct Resolver<'a> {
    template: &'a Value,
    parameters: BTreeMap<String, Value>,
}

impl<'a> Resolver<'a> {
    /// Parameters are the template's defaults, overridden by `overrides`.
    pub(super) fn new(template: &'a Value, overrides: &BTreeMap<String, String>) -> Self {
        let mut parameters = BTreeMap::new();
        for (name, spec) in template["Parameters"].as_object().into_iter().flatten() {
            let kind = spec["Type"].as_str().unwrap_or_default();
            let is_list = kind == "CommaDelimitedList" || kind.starts_with("List<");
            let value = overrides.get(name).map(|text| Value::from(text.as_str()));
            let Some(value) = value.or_else(|| spec.get("Default").cloned()) else { continue };
            let value = match value.as_str() {
                Some(text) if is_list => text.split(',').map(str::trim).collect(),
                Some(text) if kind == "Number" => {
                    text.parse::<i64>().map_or_else(|_| text.into(), Value::from)
                }
                _ => value,
            };
            parameters.insert(name.clone(), value);
        }
        Self { template, parameters }
    }

    /// The value with every intrinsic that can be answered replaced by its answer.
    pub(super) fn resolve(&self, value: &Value) -> Value {
        self.at(value, 0).unwrap_or(Value::Null)
    }

    /// None stands for `AWS::NoValue`.
    fn at(&self, value: &Value, depth: u8) -> Option<Value> {
        if depth > MAX_DEPTH {
            return Some(value.clone());
        }
        let deeper = |value: &Value| self.at(value, depth + 1);
        match value {
            Value::Array(items) => Some(items.iter().filter_map(deeper).collect()),
            Value::Object(map) => {
                if let Some((name, argument)) = single(map)
                    && (name == "Ref" || name.starts_with("Fn::"))
                {
                    return self.intrinsic(name, argument, depth + 1).unwrap_or_else(|| Some(value.clone()));
                }
                let entries = map.iter().filter_map(|(key, value)| Some((key.clone(), deeper(value)?)));
                Some(Value::Object(entries.collect()))
            }
            scalar => Some(scalar.clone()),
        }
    }

    /// None: cannot be answered here. Some(None): `AWS::NoValue`.
    fn intrinsic(&self, name: &str, argument: &Value, depth: u8) -> Option<Option<Value>> {
        match name {
            "Ref" if argument == "AWS::NoValue" => return Some(None),
            "Ref" => return self.reference(argument.as_str()?).map(Some),
            "Fn::If" => {
                let [condition, then, otherwise] = argument.as_array()?.as_slice() else { return None };
                let branch = if self.condition(condition.as_str()?, depth)? { then } else { otherwise };
                return Some(self.at(branch, depth));
            }
            _ => {}
        }
        let argument = self.at(argument, depth)?;
        let answer = match name {
            "Fn::Sub" => match &argument {
                Value::String(text) => self.substitute(text, &Map::new())?.into(),
                Value::Array(parts) => {
                    self.substitute(parts.first()?.as_str()?, parts.get(1)?.as_object()?)?.into()
                }
                _ => return None,
            },
            "Fn::GetAtt" => {
                let parts: Vec<&str> = match &argument {
                    Value::Array(parts) => parts.iter().map(Value::as_str).collect::<Option<_>>()?,
                    text => text.as_str()?.splitn(2, '.').collect(),
                };
                self.attribute(parts.first()?, parts.get(1)?)?.into()
            }
            "Fn::Join" => {
                let parts: Option<Vec<String>> = argument.get(1)?.as_array()?.iter().map(text_of).collect();
                parts?.join(argument.get(0)?.as_str()?).into()
            }
            "Fn::Split" => argument.get(1)?.as_str()?.split(argument.get(0)?.as_str()?).collect(),
            "Fn::Select" => {
                let index = text_of(argument.get(0)?)?.parse::<usize>().ok()?;
                argument.get(1)?.get(index)?.clone()
            }
            "Fn::FindInMap" => {
                let key = |index| argument.get(index).and_then(text_of);
                self.template["Mappings"].get(key(0)?)?.get(key(1)?)?.get(key(2)?)?.clone()
            }
            "Fn::Base64" => argument,
            _ => return None,
        };
        Some(Some(answer))
    }

    fn reference(&self, name: &str) -> Option<Value> {
        if let Some(value) = self.parameters.get(name) {
            return Some(value.clone());
        }
        if let Some((_, value)) = PSEUDO_PARAMETERS.iter().find(|(pseudo, _)| *pseudo == name) {
            return Some((*value).into());
        }
        // A resource's reference is its name; here the logical id serves as one.
        self.template["Resources"].get(name).map(|_| name.into())
    }

    /// Attributes stay recognisable: what ends in `:<logical id>` still names its resource.
    fn attribute(&self, resource: &str, attribute: &str) -> Option<String> {
        let kind = self.template["Resources"].get(resource)?["Type"].as_str()?;
        match (kind, attribute) {
            ("AWS::Serverless::Function" | "AWS::Lambda::Function", "Arn") => {
                Some(format!("arn:aws:lambda:local:000000000000:function:{resource}"))
            }
            (_, "Arn") => Some(format!("arn:aws:local:local:000000000000:{resource}")),
            _ => None,
        }
    }

    fn substitute(&self, text: &str, local: &Map<String, Value>) -> Option<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            out.push_str(before);
            let (name, after) = after.split_once('}')?;
            rest = after;
            if let Some(literal) = name.strip_prefix('!') {
                out.push_str(&format!("${{{literal}}}"));
                continue;
            }
            let value = match (local.get(name), name.split_once('.')) {
                (Some(value), _) => text_of(value)?,
                (None, Some((resource, attribute))) => self.attribute(resource, attribute)?,
                (None, None) => text_of(&self.reference(name)?)?,
            };
            out.push_str(&value);
        }
        out.push_str(rest);
        Some(out)
    }

    fn condition(&self, name: &str, depth: u8) -> Option<bool> {
        self.test(self.template["Conditions"].get(name)?, depth + 1)
    }

    fn test(&self, value: &Value, depth: u8) -> Option<bool> {
        if depth > MAX_DEPTH {
            return None;
        }
        let (name, argument) = single(value.as_object()?)?;
        let tests = || -> Option<Vec<bool>> {
            argument.as_array()?.iter().map(|value| self.test(value, depth + 1)).collect()
        };
        match name {
            "Condition" => self.condition(argument.as_str()?, depth),
            "Fn::Equals" => {
                let sides = self.at(argument, depth)?;
                Some(text_of(sides.get(0)?)? == text_of(sides.get(1)?)?)
            }
            "Fn::Not" => tests()?.first().map(|holds| !holds),
            "Fn::And" => tests().map(|all| all.into_iter().all(|holds| holds)),
            "Fn::Or" => tests().map(|all| all.into_iter().any(|holds| holds)),
            _ => None,
        }
    }
}

fn single(map: &Map<String, Value>) -> Option<(&str, &Value)> {
    let mut entries = map.iter();
    match (entries.next(), entries.next()) {
        (Some((key, value)), None) => Some((key.as_str(), value)),
        _ => None,
    }
}

/// CloudFormation's text of a scalar; a list of texts joins with commas, as a list parameter does in `Fn::Sub`.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Array(items) => items.iter().map(text_of).collect::<Option<Vec<_>>>().map(|all| all.join(",")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::yaml;
    use expect_test::{Expect, expect};

    const TEMPLATE: &str = "
Parameters:
  Brokers: { Type: CommaDelimitedList, Default: 'a:1, b:2' }
  Topic: { Type: String, Default: order.events }
  Retries: { Type: Number, Default: 3 }
  Secret: { Type: String }
Mappings: { Sizes: { small: { batch: 10 } } }
Conditions:
  IsOrders: !Equals [!Ref Topic, order.events]
  IsOther: !Not [!Condition IsOrders]
Resources:
  Relay: { Type: AWS::Serverless::Function }
";

    fn check(value: &str, expected: Expect) {
        let template = yaml::parse(TEMPLATE).expect("the test's template is well formed");
        let value = yaml::parse(value).expect("the test's value is well formed");
        let resolver = Resolver::new(&template, &BTreeMap::from([("Retries".to_owned(), "7".to_owned())]));
        expected.assert_eq(&resolver.resolve(&value).to_string());
    }

    #[test]
    fn parameters_have_their_type_and_an_override_wins() {
        check("[!Ref Brokers, !Ref Retries, !Ref Relay]", expect![[r#"[["a:1","b:2"],7,"Relay"]"#]]);
    }

    #[test]
    fn texts_are_put_together() {
        check(
            "[!Sub 'kafka://${Topic}.dlq', !Sub ['${X}-${AWS::Region}', {X: !Select [1, !Ref Brokers]}], !Join ['|', !Ref Brokers], !Sub '${!keep} ${Relay.Arn}']",
            expect![[
                r#"["kafka://order.events.dlq","b:2-local","a:1|b:2","${keep} arn:aws:lambda:local:000000000000:function:Relay"]"#
            ]],
        );
    }

    #[test]
    fn conditions_choose_and_no_value_vanishes() {
        check(
            "{a: !If [IsOrders, 1, 2], b: !If [IsOther, 1, !Ref AWS::NoValue], c: !FindInMap [Sizes, small, batch]}",
            expect![[r#"{"a":1,"c":10}"#]],
        );
    }

    #[test]
    fn what_only_aws_knows_stays_as_it_is() {
        check(
            "[!ImportValue x, !Ref Secret, !Sub '${Secret}']",
            expect![[r#"[{"Fn::ImportValue":"x"},{"Ref":"Secret"},{"Fn::Sub":"${Secret}"}]"#]],
        );
    }
}

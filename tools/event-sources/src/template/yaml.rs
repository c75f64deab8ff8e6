//! YAML as CloudFormation writes it: the short tags (`!Ref`, `!Sub`, …) become their long JSON form.
//!
//! After this step a YAML template and a JSON template look alike, so that nothing further knows of tags.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, json};
use serde_saphyr::Tagged;
use std::fmt;

/// Parses a template, YAML or JSON.
///
/// # Errors
/// With the parser's own message, which names line and column.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let node: Tagged<Node> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    Ok(long_form(node))
}

/// A node whose children still carry their tags.
enum Node {
    Scalar(Value),
    List(Vec<Tagged<Node>>),
    Map(Vec<(String, Tagged<Node>)>),
}

fn long_form(Tagged(node, tag): Tagged<Node>) -> Value {
    let value = match node {
        Node::Scalar(value) => value,
        Node::List(items) => items.into_iter().map(long_form).collect(),
        Node::Map(entries) => {
            Value::Object(entries.into_iter().map(|(key, node)| (key, long_form(node))).collect())
        }
    };
    match tag.as_deref().and_then(|tag| tag.strip_prefix('!')) {
        Some("Ref") => json!({ "Ref": value }),
        Some("Condition") => json!({ "Condition": value }),
        // The short form is "Resource.Attribute", the long one a list.
        Some("GetAtt") => match value.as_str().and_then(|text| text.split_once('.')) {
            Some((resource, attribute)) => json!({ "Fn::GetAtt": [resource, attribute] }),
            None => json!({ "Fn::GetAtt": value }),
        },
        Some(function) if !function.is_empty() => {
            Value::Object(Map::from_iter([(format!("Fn::{function}"), value)]))
        }
        _ => value,
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a scalar, a list or a map")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(text: &str, expected: Expect) {
        expected.assert_eq(&parse(text).expect("the test's YAML is well formed").to_string());
    }

    #[test]
    fn a_tag_becomes_its_long_form_wherever_it_stands() {
        check(
            "a: !Ref Topic\nb: [!Sub '${Topic}.dlq', plain]\nc: !GetAtt Relay.Arn\nd: !Join [',', !Ref Brokers]",
            expect![[
                r#"{"a":{"Ref":"Topic"},"b":[{"Fn::Sub":"${Topic}.dlq"},"plain"],"c":{"Fn::GetAtt":["Relay","Arn"]},"d":{"Fn::Join":[",",{"Ref":"Brokers"}]}}"#
            ]],
        );
    }

    #[test]
    fn a_map_or_a_list_may_carry_a_tag_and_hold_tags() {
        check(
            "x: !If\n  - IsLocal\n  - !Ref A\n  - !Sub\n    - 's-${Id}'\n    - Id: !Select [0, !Ref Ids]",
            expect![[
                r#"{"x":{"Fn::If":["IsLocal",{"Ref":"A"},{"Fn::Sub":["s-${Id}",{"Id":{"Fn::Select":[0,{"Ref":"Ids"}]}}]}]}}"#
            ]],
        );
    }

    #[test]
    fn scalars_keep_their_types() {
        check(
            "n: 10000\nneg: -1\nt: true\ns: '10'\nnothing:\ndate: 2010-09-09\nf: 1.5",
            expect![[r#"{"date":"2010-09-09","f":1.5,"n":10000,"neg":-1,"nothing":null,"s":"10","t":true}"#]],
        );
    }

    #[test]
    fn json_is_yaml() {
        check(r#"{"a": {"Ref": "B"}, "c": [1, "2"]}"#, expect![[r#"{"a":{"Ref":"B"},"c":[1,"2"]}"#]]);
    }

    #[test]
    fn a_broken_file_is_named_by_line() {
        let error = parse("a: [1, 2\nb: 3").expect_err("the list is never closed");
        assert!(error.contains("line"), "{error}");
    }
}

//! Templates in, triggers out.

use super::*;
use expect_test::{Expect, expect};

fn parse(text: &str) -> Result<Template, TemplateError> {
    Template::parse(text, "template.yaml", &BTreeMap::new())
}

fn check_error(text: &str, expected: Expect) {
    expected.assert_eq(&parse(text).expect_err("the template is wrong").to_string());
}

const FUNCTION: &str = "
Parameters: { Suffix: { Type: String, Default: dlq } }
Resources:
  Load: { Type: AWS::Serverless::Function, Metadata: { BuildProperties: { Binary: load-rows } }, Properties: { Timeout: 9 } }
";

#[test]
fn our_own_template_is_understood() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../template.yaml");
    let template = Template::read(&path, &BTreeMap::new()).expect("it is the file that deploys");

    let mut lines: Vec<String> = Vec::new();
    for f in &template.functions {
        lines.push(format!(
            "{} {:?} at once {:?} retries {} coalesce {}",
            f.name, f.timeout, f.concurrency, f.async_retries, f.coalesce
        ));
    }
    for s in &template.schedules {
        let input = s.input.as_ref().map(Value::to_string);
        lines.push(format!("{} <- {} each {:?} {input:?}", s.function, s.expression, s.every));
    }
    for m in &template.mappings {
        lines.push(format!("{m:?}"));
    }
    lines.extend(template.notes);
    expect![[r#"
        create-order 15s at once None retries 2 coalesce false
        load-analytics 60s at once None retries 2 coalesce false
        outbox-relay 100s at once Some(3) retries 0 coalesce true
        transform-events 60s at once None retries 2 coalesce false
        outbox-relay <- rate(1 minute) each 5s Some("{\"every_s\":5,\"for_s\":0}")
        Mapping { name: "InventoryAnalytics", function: "load-analytics", topic: "inventory_analytics", group: "outflow-load-analytics-inventory_analytics", source: SelfManaged, enabled: true, start: TrimHorizon, batch_size: 5000, window: 1s, max_retries: Some(10000), max_age: Some(604800s), bisect: true, partial: true, on_failure: Some("inventory_analytics.dlq") }
        Mapping { name: "InventoryAnalyticsRetry", function: "load-analytics", topic: "inventory_analytics.retry", group: "outflow-load-analytics-inventory_analytics.retry", source: SelfManaged, enabled: true, start: TrimHorizon, batch_size: 500, window: 500ms, max_retries: Some(10000), max_age: Some(604800s), bisect: true, partial: true, on_failure: Some("inventory_analytics.dlq") }
        Mapping { name: "InventoryEvents", function: "transform-events", topic: "inventory.events", group: "outflow-transform-events-inventory.events", source: SelfManaged, enabled: true, start: TrimHorizon, batch_size: 500, window: 500ms, max_retries: Some(10000), max_age: Some(604800s), bisect: true, partial: true, on_failure: Some("inventory.events.dlq") }
        Mapping { name: "InventoryEventsRetry", function: "transform-events", topic: "inventory.events.retry", group: "outflow-transform-events-inventory.events.retry", source: SelfManaged, enabled: true, start: TrimHorizon, batch_size: 500, window: 500ms, max_retries: Some(10000), max_age: Some(604800s), bisect: true, partial: true, on_failure: Some("inventory.events.dlq") }
        Mapping { name: "OrderEvents", function: "transform-events", topic: "order.events", group: "outflow-transform-events-order.events", source: SelfManaged, enabled: true, start: TrimHorizon, batch_size: 500, window: 500ms, max_retries: Some(10000), max_age: Some(604800s), bisect: true, partial: true, on_failure: Some("order.events.dlq") }
        Mapping { name: "OrderEventsRetry", function: "transform-events", topic: "order.events.retry", group: "outflow-transform-events-order.events.retry", source: SelfManaged, enabled: true, start: TrimHorizon, batch_size: 500, window: 500ms, max_retries: Some(10000), max_age: Some(604800s), bisect: true, partial: true, on_failure: Some("order.events.dlq") }
        Mapping { name: "OrderItemsAnalytics", function: "load-analytics", topic: "order_items_analytics", group: "outflow-load-analytics-order_items_analytics", source: SelfManaged, enabled: true, start: TrimHorizon, batch_size: 5000, window: 1s, max_retries: Some(10000), max_age: Some(604800s), bisect: true, partial: true, on_failure: Some("order_items_analytics.dlq") }
        Mapping { name: "OrderItemsAnalyticsRetry", function: "load-analytics", topic: "order_items_analytics.retry", group: "outflow-load-analytics-order_items_analytics.retry", source: SelfManaged, enabled: true, start: TrimHorizon, batch_size: 500, window: 500ms, max_retries: Some(10000), max_age: Some(604800s), bisect: true, partial: true, on_failure: Some("order_items_analytics.dlq") }
        Mapping { name: "OrdersAnalytics", function: "load-analytics", topic: "orders_analytics", group: "outflow-load-analytics-orders_analytics", source: SelfManaged, enabled: true, start: TrimHorizon, batch_size: 5000, window: 1s, max_retries: Some(10000), max_age: Some(604800s), bisect: true, partial: true, on_failure: Some("orders_analytics.dlq") }
        Mapping { name: "OrdersAnalyticsRetry", function: "load-analytics", topic: "orders_analytics.retry", group: "outflow-load-analytics-orders_analytics.retry", source: SelfManaged, enabled: true, start: TrimHorizon, batch_size: 500, window: 500ms, max_retries: Some(10000), max_age: Some(604800s), bisect: true, partial: true, on_failure: Some("orders_analytics.dlq") }
    "#]]
    .assert_eq(&format!("{}\n", lines.join("\n")));
}

#[test]
fn a_sam_event_is_a_mapping_with_lambdas_defaults() {
    let template = parse(
        "
Resources:
  Load:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: functions/load-rows/
      Events:
        Rows: { Type: MSK, Properties: { Stream: !Ref Cluster, Topics: [rows], FilterCriteria: { Filters: [] } } }
        Other: { Type: SQS, Properties: {} }
",
    )
    .expect("it is well formed");
    expect![[r#"
        (
            [
                Mapping {
                    name: "Load.Events.Rows",
                    function: "load-rows",
                    topic: "rows",
                    group: "outflow-load-rows-rows",
                    source: Msk,
                    enabled: true,
                    start: TrimHorizon,
                    batch_size: 100,
                    window: 500ms,
                    max_retries: None,
                    max_age: None,
                    bisect: false,
                    partial: false,
                    on_failure: None,
                },
            ],
            [
                "Load.Events.Other: SQS is not played",
                "Load.Events.Rows: FilterCriteria is not played",
            ],
        )
    "#]]
    .assert_debug_eq(&(template.mappings, template.notes));
}

#[test]
fn an_infinite_retry_with_a_destination_is_cut_as_aws_does() {
    let template = parse(&format!(
        "{FUNCTION}  Rows:
    Type: AWS::Lambda::EventSourceMapping
    Properties:
      FunctionName: !GetAtt Load.Arn
      Topics: [rows]
      SelfManagedEventSource: {{}}
      DestinationConfig: {{ OnFailure: {{ Destination: !Sub 'kafka://rows.${{Suffix}}' }} }}
"
    ))
    .expect("it is well formed");
    let mapping = &template.mappings[0];
    assert_eq!(mapping.max_retries, Some(10));
    assert_eq!(mapping.on_failure.as_deref(), Some("rows.dlq"));
    assert_eq!(mapping.function, "load-rows");
    assert_eq!(mapping.group, "outflow-load-rows-rows");
    assert_eq!(mapping.source, EventSource::SelfManaged);
}

#[test]
fn a_mistake_is_told_with_its_resource_and_field() {
    let mapping = |properties: &str| {
        format!(
            "{FUNCTION}  Rows:\n    Type: AWS::Lambda::EventSourceMapping\n    Properties: {properties}\n"
        )
    };
    check_error(
        &mapping("{ FunctionName: !Ref Load, Topics: [rows], BatchSize: 20000 }"),
        expect!["Rows: BatchSize is 20000: must be between 1 and 10000"],
    );
    check_error(
        &mapping("{ FunctionName: !Ref Load, Topics: [!ImportValue X] }"),
        expect![
            "Rows: Topics must be a list of texts, found {\"Fn::ImportValue\":\"X\"}: what only AWS knows can be given with --parameter NAME=VALUE"
        ],
    );
    check_error(
        &mapping("{ FunctionName: elsewhere, Topics: [rows] }"),
        expect![[r#"Rows: FunctionName "elsewhere" is no function of this template"#]],
    );
    check_error(
        &mapping(
            "{ FunctionName: !Ref Load, Topics: [rows], DestinationConfig: { OnFailure: { Destination: 'kafka://rows' } } }",
        ),
        expect!["Rows: DestinationConfig.OnFailure.Destination is the topic that is read: a loop"],
    );
}

#[test]
fn a_schedule_of_the_rule_kind_and_one_that_is_not_played() {
    let template = parse(&format!(
        "{FUNCTION}  Hourly:
    Type: AWS::Events::Rule
    Properties: {{ ScheduleExpression: rate(2 hours), State: DISABLED, Targets: [{{ Arn: !GetAtt Load.Arn, Id: a }}] }}
  Nightly:
    Type: AWS::Events::Rule
    Properties: {{ ScheduleExpression: cron(0 3 * * ? *), Targets: [{{ Arn: !GetAtt Load.Arn, Id: a }}] }}
"
    ))
    .expect("it is well formed");
    expect![[r#"
        (
            [
                Schedule {
                    name: "Hourly",
                    function: "load-rows",
                    enabled: false,
                    expression: "rate(2 hours)",
                    every: 7200s,
                    input: None,
                },
            ],
            [
                "Nightly: cron(0 3 * * ? *) is not played, only rate(…)",
            ],
        )
    "#]]
    .assert_debug_eq(&(template.schedules, template.notes));
}

//! Reads the events that a BatchExecuteStatement marked as published.

use outbox::Status;
use outbox::item::attribute::STATUS;
use serde_json::Value;
use test_support::fault_proxy::AwsRequest;

/// Returns aggregate and sequence of each event whose statement was executed and marks it as
/// published. The key in the WHERE clause of a statement is last among its parameters.
pub(super) fn marked(request: &AwsRequest, answer: &Value) -> Vec<(String, u64)> {
    let body = request.json();
    let statements = body["Statements"].as_array().into_iter().flatten();
    let mark = format!(r#"SET "{STATUS}" = '{}'"#, Status::Published.as_str());
    let responses = answer["Responses"].as_array().into_iter().flatten();
    statements
        .zip(responses)
        .filter(|(_, response)| response["Error"].is_null())
        .filter_map(|(statement, _)| {
            // Other statements defer events.
            statement["Statement"].as_str()?.find(&mark)?;
            let [.., aggregate_id, sequence] = statement["Parameters"].as_array()?.as_slice()
            else {
                return None;
            };
            let aggregate_id = aggregate_id["S"].as_str()?.to_owned();
            Some((aggregate_id, sequence["N"].as_str()?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::CloudService;

    #[test]
    fn executed_statements_are_marks() {
        let statement = |change: &str, id: &str, sequence: &str| {
            json!({
                "Statement": format!(r#"UPDATE "outbox" {change} WHERE"#),
                "Parameters": [{"N": "7"}, {"S": id}, {"N": sequence}],
            })
        };
        let published = r#"SET "status" = 'PUBLISHED'"#;
        let body = json!({"Statements": [
            statement(published, "a", "1"),
            statement(published, "b", "2"),
            statement(published, "c", "3"),
            statement(r#"SET "deferred_at" = ?"#, "d", "4"),
        ]});
        let request = AwsRequest::of(CloudService::Dynamodb, "BatchExecuteStatement", &body);
        let refused = json!({"Error": {"Code": "ConditionalCheckFailed"}});
        let answer = json!({"Responses": [{"TableName": "outbox"}, refused, {"TableName": "outbox"}, {"TableName": "outbox"}]});
        assert_eq!(
            marked(&request, &answer),
            [("a".to_owned(), 1), ("c".to_owned(), 3)]
        );
        assert_eq!(marked(&request, &Value::Null), []);
    }
}

//! Corrects the identity of who changed an item in dynoxide's stream records. dynoxide has the
//! names that Lambda passes on, `principalId` and `type`; DynamoDB Streams itself has `PrincipalId`
//! and `Type`, and the SDKs read only those.

use bytes::Bytes;
use serde_json::Value;

const FIELD: &str = "userIdentity";

/// Returns the response to a `GetRecords` as DynamoDB Streams would have sent it. Only records of
/// deletions by the time to live have an identity, so most responses are returned as they are.
pub(super) fn corrected(response: Bytes) -> Bytes {
    let may_have_any = std::str::from_utf8(&response).is_ok_and(|text| text.contains(FIELD));
    if !may_have_any {
        return response;
    }
    let Ok(mut value) = serde_json::from_slice::<Value>(&response) else {
        return response;
    };
    let Some(Value::Array(records)) = value.get_mut("Records") else {
        return response;
    };
    for record in records {
        if let Some(Value::Object(identity)) = record.get_mut(FIELD) {
            for (wrong, right) in [("principalId", "PrincipalId"), ("type", "Type")] {
                if let Some(value) = identity.remove(wrong) {
                    identity.insert(right.to_owned(), value);
                }
            }
        }
    }
    serde_json::to_vec(&value).map_or(response, Bytes::from)
}

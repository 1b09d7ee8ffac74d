//! Corrects dynoxide's `DescribeStream`. Each of its streams has one shard that
//! never closes, but it gives the shard an ending sequence number, which in
//! DynamoDB means closed, and a starting one only with its first record. It also
//! ignores what narrows a listing, so that the shard appears as its own child and
//! as its own successor.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

/// Before every sequence number that dynoxide gives a record, and one that it
/// takes.
const START: &str = "100000000000000000001";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Asked {
    exclusive_start_shard_id: Option<String>,
    shard_filter: Option<ShardFilter>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ShardFilter {
    r#type: Option<String>,
}

/// dynoxide's answer as DynamoDB would have given it.
pub(crate) fn corrected(asked: &[u8], answer: Bytes) -> Bytes {
    // dynoxide has read the request; what it ignores may still be of a wrong type.
    let asked: Asked = serde_json::from_slice(asked).unwrap_or_default();
    let Ok(mut value) = serde_json::from_slice::<Value>(&answer) else {
        return answer;
    };
    let Some(Value::Array(shards)) = value.pointer_mut("/StreamDescription/Shards") else {
        return answer;
    };
    let children = asked
        .shard_filter
        .is_some_and(|filter| filter.r#type.as_deref() == Some("CHILD_SHARDS"));
    shards.retain_mut(|shard| {
        if let Some(Value::Object(range)) = shard.get_mut("SequenceNumberRange") {
            range.remove("EndingSequenceNumber");
            range.insert("StartingSequenceNumber".to_owned(), START.into());
        }
        let id = shard.get("ShardId").and_then(Value::as_str);
        // Listings are in the order of the ids.
        !children && id > asked.exclusive_start_shard_id.as_deref()
    });
    serde_json::to_vec(&value).map_or(answer, Bytes::from)
}

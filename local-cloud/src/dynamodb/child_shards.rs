//! Corrects dynoxide's `DescribeStream`. Each of its streams has one shard that never closes, but
//! dynoxide reports an ending sequence number, which in DynamoDB means that the shard is closed,
//! and a starting one only after the first record. It also ignores `ShardFilter` and
//! `ExclusiveStartShardId`, so that the shard appears as its own child and its own successor.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

/// Starting sequence number: lower than that of every record, and one that dynoxide accepts.
const START: &str = "100000000000000000001";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeStreamInput {
    exclusive_start_shard_id: Option<String>,
    shard_filter: Option<ShardFilter>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ShardFilter {
    r#type: Option<String>,
}

/// Returns dynoxide's response as DynamoDB would have sent it.
pub(crate) fn corrected(requested: &[u8], response: Bytes) -> Bytes {
    // dynoxide has parsed the request, but fields that it ignores may have the wrong type.
    let requested: DescribeStreamInput = serde_json::from_slice(requested).unwrap_or_default();
    let Ok(mut value) = serde_json::from_slice::<Value>(&response) else {
        return response;
    };
    let Some(Value::Array(shards)) = value.pointer_mut("/StreamDescription/Shards") else {
        return response;
    };
    let children = requested
        .shard_filter
        .is_some_and(|filter| filter.r#type.as_deref() == Some("CHILD_SHARDS"));
    shards.retain_mut(|shard| {
        if let Some(Value::Object(range)) = shard.get_mut("SequenceNumberRange") {
            range.remove("EndingSequenceNumber");
            range.insert("StartingSequenceNumber".to_owned(), START.into());
        }
        let id = shard.get("ShardId").and_then(Value::as_str);
        // Shards are listed in the order of their ids.
        !children && id > requested.exclusive_start_shard_id.as_deref()
    });
    serde_json::to_vec(&value).map_or(response, Bytes::from)
}

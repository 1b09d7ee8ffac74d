//! Write units that DynamoDB counts for the whole life of one event of 10 KB: with an index that
//! projects all attributes, as before, and with the small projection of `provision`.
//!
//! `WRITE_UNITS_ENDPOINT` names another endpoint than the embedded cloud, for which the units are
//! printed only.

use std::sync::Arc;

use aws_sdk_dynamodb::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeSerializationInterceptorContextMut,
};
use aws_sdk_dynamodb::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::BoxError;
use aws_sdk_dynamodb::operation::batch_execute_statement::{
    BatchExecuteStatementInput, BatchExecuteStatementOutput,
};
use aws_sdk_dynamodb::operation::delete_item::{DeleteItemInput, DeleteItemOutput};
use aws_sdk_dynamodb::operation::transact_write_items::{
    TransactWriteItemsInput, TransactWriteItemsOutput,
};
use aws_sdk_dynamodb::types::{
    AttributeValue, Capacity, ConsumedCapacity, ProjectionType, ReturnConsumedCapacity,
};
use outbox::timestamp::Timestamp;
use outbox::{Aggregate, Buckets, NewEvent, Outbox};
use outbox_store::dynamodb::DynamoDbOutboxTable;
use outbox_store::{EventKey, Generation, MarkOutcome, OutboxTable, Published};
use parking_lot::Mutex;
use shared::provision::{self, Table};

use crate::index::create_outbox;
use crate::support::{Stage, text};

/// Bytes of the payload, so that the item has 9 to 10 KB before and after its mark.
const PAYLOAD: usize = 9_500;

/// Write units of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Units {
    table: f64,
    index: f64,
}

/// Requests the consumed capacity with every write, and sums it up.
#[derive(Clone, Debug, Default)]
struct Meter(Arc<Mutex<Units>>);

impl Meter {
    /// Returns the units since the last call.
    fn take(&self) -> Units {
        std::mem::take(&mut self.0.lock())
    }

    fn add(&self, consumed: &[ConsumedCapacity]) {
        let units = |capacity: &Capacity| {
            let written = capacity.write_capacity_units.or(capacity.capacity_units);
            written.unwrap_or_default()
        };
        let mut sum = self.0.lock();
        for consumed in consumed {
            sum.table += consumed.table.as_ref().map(units).unwrap_or_default();
            let indexes = consumed.global_secondary_indexes.iter().flatten();
            sum.index += indexes.map(|(_, capacity)| units(capacity)).sum::<f64>();
        }
    }
}

impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "Meter"
    }

    fn modify_before_serialization(
        &self,
        context: &mut BeforeSerializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let all = Some(ReturnConsumedCapacity::Indexes);
        let input = context.input_mut();
        if let Some(input) = input.downcast_mut::<TransactWriteItemsInput>() {
            input.return_consumed_capacity = all;
        } else if let Some(input) = input.downcast_mut::<BatchExecuteStatementInput>() {
            input.return_consumed_capacity = all;
        } else if let Some(input) = input.downcast_mut::<DeleteItemInput>() {
            input.return_consumed_capacity = all;
        }
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Ok(output) = context.output_or_error() else {
            return Ok(());
        };
        if let Some(output) = output.downcast_ref::<TransactWriteItemsOutput>() {
            self.add(output.consumed_capacity());
        } else if let Some(output) = output.downcast_ref::<BatchExecuteStatementOutput>() {
            self.add(output.consumed_capacity());
        } else if let Some(output) = output.downcast_ref::<DeleteItemOutput>() {
            self.add(output.consumed_capacity.as_slice());
        }
        Ok(())
    }
}

/// Returns the units of the put, the mark and the delete of one event.
async fn life(dynamodb: &aws_sdk_dynamodb::Client, table: &str) -> [Units; 3] {
    let meter = Meter::default();
    let config = dynamodb.config().to_builder().interceptor(meter.clone());
    let dynamodb = aws_sdk_dynamodb::Client::from_conf(config.build());
    let payload = serde_json::json!({ "text": "x".repeat(PAYLOAD) });
    let order = Aggregate {
        kind: "order",
        id: "o-1",
    };
    let event = NewEvent::new(order, 1, "order.placed", &payload).unwrap();
    dynamodb
        .transact_write_items()
        .transact_items(Outbox::new(table).stage(event).unwrap())
        .send()
        .await
        .unwrap();
    let put = meter.take();

    let outbox = DynamoDbOutboxTable::new(dynamodb.clone(), table.to_owned(), Buckets::default());
    let published = Published {
        key: EventKey {
            aggregate_id: "o-1".to_owned(),
            sequence: "1".to_owned(),
        },
        generation: Generation::default(),
        message_id: "5fea7756-0ea4-451a-a703-a558b933e274".to_owned(),
        published_at: Timestamp::now(),
        expires_at: 4_102_444_800,
    };
    let marked = outbox.mark(&[published]).await.unwrap();
    assert_eq!(marked, [MarkOutcome::Marked]);
    let mark = meter.take();

    // As the time to live does, for which DynamoDB charges nothing.
    dynamodb
        .delete_item()
        .table_name(table)
        .key("aggregate_id", text("o-1"))
        .key("sequence", AttributeValue::N("1".to_owned()))
        .send()
        .await
        .unwrap();
    [put, mark, meter.take()]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_payload_is_not_paid_for_in_the_index() {
    let stage = Stage::without_queue().await;
    let endpoint = std::env::var("WRITE_UNITS_ENDPOINT").ok();
    let dynamodb = match &endpoint {
        Some(endpoint) => {
            let config = stage.dynamodb.config().to_builder().endpoint_url(endpoint);
            aws_sdk_dynamodb::Client::from_conf(config.build())
        }
        None => stage.dynamodb.clone(),
    };
    create_outbox(&dynamodb, "whole", Some(ProjectionType::All)).await;
    provision::tables(&dynamodb, [Table::outbox("small")])
        .await
        .unwrap();
    let mut sums = Vec::new();
    for (table, projection) in [("whole", "ALL"), ("small", "INCLUDE")] {
        let steps = life(&dynamodb, table).await;
        for (step, units) in ["put", "mark", "delete"].iter().zip(steps) {
            println!(
                "{projection:<8} {step:<7} table {:>4}  index {:>4}",
                units.table, units.index
            );
        }
        // The delete of the time to live is free.
        let sum: f64 = steps[..2]
            .iter()
            .map(|units| units.table + units.index)
            .sum();
        println!("{projection:<8} in all  {sum}");
        sums.push(sum);
    }
    // DynamoDB Local counts transactions otherwise, and reports nothing for the mark.
    if endpoint.is_none() {
        assert_eq!(sums, [50.0, 32.0]);
    }
}

//! Counts events by their state, and finds the oldest pending one.

use aws_sdk_dynamodb::types::Select;
use futures::future::try_join_all;
use outbox::item::{FAILED_BUCKET, attribute};
use outbox::timestamp::Timestamp;
use serde::Serialize;

use super::DynamoDbOutboxTable;
use crate::TableError;
use crate::item::text;

/// Pages of one index partition, of up to 1 MB each, that an operator's count reads. If more
/// follow, the count is a lower bound.
const MAX_PAGES: usize = 50;

/// First events of an index partition among which the oldest time is searched: a writer may have
/// stored texts that are not a time.
const MAX_OLDEST: i32 = 25;

/// Number of events according to the index, which lags behind the table a little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub count: u64,
    /// `false` if more events follow that were not counted.
    pub exact: bool,
}

impl DynamoDbOutboxTable {
    /// Counts the pending events: up to 50 MB of index entries per partition.
    pub async fn count_all_pending(&self) -> Result<Count, TableError> {
        let partitions = self
            .buckets
            .partitions()
            .map(|partition| async move { self.count_partition(&partition, MAX_PAGES).await });
        let counts = try_join_all(partitions).await?;
        Ok(Count {
            count: counts.iter().map(|part| part.count).sum(),
            exact: counts.iter().all(|part| part.exact),
        })
    }

    /// Counts the failed events: up to 50 MB of index entries.
    pub async fn count_all_failed(&self) -> Result<Count, TableError> {
        self.count_partition(FAILED_BUCKET, MAX_PAGES).await
    }

    /// Counts the events of one index partition, in at most `max_pages` requests.
    pub(super) async fn count_partition(
        &self,
        partition: &str,
        max_pages: usize,
    ) -> Result<Count, TableError> {
        let mut pages = self
            .query_partition(partition)
            .select(Select::Count)
            .into_paginator()
            .send();
        let mut total = Count {
            count: 0,
            exact: true,
        };
        for _ in 0..max_pages {
            let Some(page) = pages.next().await else {
                break;
            };
            let page = page.map_err(|error| TableError::of_index(&self.table, &error))?;
            total.count += u64::from(page.count.unsigned_abs());
            total.exact = page.last_evaluated_key.is_none();
        }
        Ok(total)
    }

    /// Returns when the oldest pending event occurred, as its writer stored it. The text is not a
    /// time only if none of the first events of each partition has one.
    pub async fn oldest_pending(&self) -> Result<Option<String>, TableError> {
        let first = try_join_all(self.buckets.partitions().map(|partition| async move {
            let response = self
                .query_partition(&partition)
                .projection_expression("#at")
                .expression_attribute_names("#at", attribute::OCCURRED_AT)
                .limit(MAX_OLDEST)
                .send()
                .await
                .map_err(|error| TableError::of_index(&self.table, &error))?;
            let items = response.items.unwrap_or_default();
            let times = items.iter().map(|item| text(item, attribute::OCCURRED_AT));
            Ok::<_, TableError>(times.collect::<Vec<_>>())
        }));
        let times = first.await?.into_iter().flatten().flatten();
        Ok(times.min_by_key(|text| {
            let at = text.parse::<Timestamp>().ok();
            (at.is_none(), at)
        }))
    }
}

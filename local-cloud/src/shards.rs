//! Changes of the virtual shards of a running cloud.

use crate::cloud::{LocalCloud, blocking};
use crate::dynamodb::{Children, ShardError};

impl LocalCloud {
    /// Closes the open shard `shard_id` of the stream of `table` at the current end of the stream
    /// and opens two children, each with one half of its hash range. Returns their ids.
    ///
    /// # Errors
    /// If the cloud has no virtual shards, the table no stream, or the shard is not open.
    pub async fn split_shard(
        &self,
        table: &str,
        shard_id: &str,
    ) -> Result<Vec<String>, ShardError> {
        self.close_shard(table, shard_id, Children::Two).await
    }

    /// Closes the open shard `shard_id` as [`split_shard`](Self::split_shard) does, but opens one
    /// child with the whole hash range, as DynamoDB does about every four hours. Returns its id.
    ///
    /// # Errors
    /// As for [`split_shard`](Self::split_shard).
    pub async fn roll_shard(&self, table: &str, shard_id: &str) -> Result<String, ShardError> {
        let children = self.close_shard(table, shard_id, Children::One).await?;
        Ok(children.into_iter().collect())
    }

    /// Trims all present records of the stream of `table`: they cannot be read any more, and closed
    /// shards are no longer listed.
    ///
    /// # Errors
    /// If the cloud has no virtual shards, or the table no stream.
    pub async fn trim_stream(&self, table: &str) -> Result<(), ShardError> {
        let shards = self.dynamodb.shards()?;
        let table = table.to_owned();
        blocking(move || shards.trim(&table)).await
    }

    async fn close_shard(
        &self,
        table: &str,
        shard_id: &str,
        children: Children,
    ) -> Result<Vec<String>, ShardError> {
        let shards = self.dynamodb.shards()?;
        let (table, shard_id) = (table.to_owned(), shard_id.to_owned());
        blocking(move || shards.close_shard(&table, &shard_id, children)).await
    }
}

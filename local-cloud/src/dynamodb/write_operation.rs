//! Operations that write items.

/// An operation that writes items, or that a write of its items makes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// `PutItem`, `UpdateItem` or `DeleteItem`.
    Item,
    /// `ExecuteStatement`.
    Statement,
    /// `BatchExecuteStatement`.
    Statements,
    /// `BatchWriteItem`.
    Batch,
    /// `TransactWriteItems`.
    Transaction,
    /// `TransactGetItems`, which reads only items outside of running transactions.
    TransactionalRead,
}

impl Write {
    /// Returns the operation of a request with this `x-amz-target`.
    pub(super) fn of(target: &[u8]) -> Option<Self> {
        match target.strip_prefix(b"DynamoDB_20120810.")? {
            b"PutItem" | b"UpdateItem" | b"DeleteItem" => Some(Self::Item),
            b"ExecuteStatement" => Some(Self::Statement),
            b"BatchExecuteStatement" => Some(Self::Statements),
            b"BatchWriteItem" => Some(Self::Batch),
            b"TransactWriteItems" => Some(Self::Transaction),
            b"TransactGetItems" => Some(Self::TransactionalRead),
            _ => None,
        }
    }
}

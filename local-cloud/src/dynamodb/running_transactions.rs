//! Items of running transactions. As in DynamoDB, another write of such an item does not wait: it
//! fails with a transaction conflict.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::item_id::ItemId;

/// The items that running transactions hold.
#[derive(Debug, Default)]
pub(super) struct RunningTransactions {
    // Locked for lookups and insertions, never across an await.
    held: Mutex<HashSet<ItemId>>,
}

impl RunningTransactions {
    /// Holds `items` until the returned guard is dropped. An item that is `None` is not held.
    ///
    /// # Errors
    /// If another transaction holds one of `items`: for each item, in order, `true` if it is held
    /// by another transaction. None of `items` is held by this one then.
    pub(super) fn begin(
        self: &Arc<Self>,
        items: &[Option<ItemId>],
    ) -> Result<RunningTransaction, Vec<bool>> {
        let mut held = self.held();
        let conflicts: Vec<_> = items.iter().map(|item| is_held(&held, item)).collect();
        if conflicts.contains(&true) {
            return Err(conflicts);
        }
        // A transaction that names an item twice is rejected by dynoxide.
        let items: Vec<_> = items.iter().flatten().cloned().collect();
        held.extend(items.iter().cloned());
        Ok(RunningTransaction {
            transactions: Arc::clone(self),
            items,
        })
    }

    /// Returns for each item, in order, whether a transaction holds it.
    pub(super) fn conflicts(&self, items: &[Option<ItemId>]) -> Vec<bool> {
        let held = self.held();
        items.iter().map(|item| is_held(&held, item)).collect()
    }

    fn held(&self) -> MutexGuard<'_, HashSet<ItemId>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_held(held: &HashSet<ItemId>, item: &Option<ItemId>) -> bool {
    item.as_ref().is_some_and(|item| held.contains(item))
}

/// A running transaction. Dropping it ends it.
#[derive(Debug)]
pub(super) struct RunningTransaction {
    transactions: Arc<RunningTransactions>,
    items: Vec<ItemId>,
}

impl Drop for RunningTransaction {
    fn drop(&mut self) {
        let mut held = self.transactions.held();
        for item in &self.items {
            held.remove(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(keys: &[&str]) -> Vec<Option<ItemId>> {
        let of = |key: &&str| (!key.is_empty()).then(|| ItemId::new("t", key, ""));
        keys.iter().map(of).collect()
    }

    #[test]
    fn item_is_held_by_one_transaction_until_it_ends() {
        let transactions = Arc::new(RunningTransactions::default());
        let first = transactions.begin(&items(&["a", "b", ""])).unwrap();
        assert_eq!(
            transactions.begin(&items(&["", "b", "c"])).unwrap_err(),
            [false, true, false]
        );
        assert_eq!(
            transactions.conflicts(&items(&["a", "c"])),
            [true, false],
            "a cancelled transaction holds no item"
        );
        drop(first);
        transactions.begin(&items(&["b", "c"])).unwrap();
        assert_eq!(transactions.conflicts(&items(&["b"])), [false]);
    }
}

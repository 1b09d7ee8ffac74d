//! Attribute names of the tables that the order services own.
//!
//! [`Order`](super::Order) has the attributes of [`orders`] by the names of its fields; a test
//! holds the two together.

/// The orders table.
pub mod orders {
    /// The key.
    pub const ORDER_ID: &str = "order_id";
    /// [`OrderStatus`](crate::order::OrderStatus); a reserved word in expressions.
    pub const STATUS: &str = "status";
    pub const TOTAL_MINOR: &str = "total_minor";
    pub const VERSION: &str = "version";
    pub const UPDATED_AT: &str = "updated_at";
    pub const REJECTION_REASON: &str = "rejection_reason";
    /// [`lines_digest`](crate::order::lines_digest) of the lines. Orders of earlier releases have
    /// none.
    pub const ITEMS_DIGEST: &str = "items_digest";
    pub const ITEMS: &str = "items";
    /// The reserved pieces, by SKU; written with the stock that it moves.
    pub const RESERVATION: &str = "reservation";
}

/// The inventory table.
pub mod inventory {
    /// The key.
    pub const SKU: &str = "sku";
    /// Pieces that can be reserved.
    pub const AVAILABLE: &str = "available";
    /// Pieces that belong to processed orders.
    pub const RESERVED: &str = "reserved";
}

/// The table of idempotency keys.
pub mod idempotency_keys {
    /// The key.
    pub const IDEMPOTENCY_KEY: &str = "idempotency_key";
    /// Time to live, in epoch seconds.
    pub const EXPIRES_AT: &str = "expires_at";
}

//! The order domain: values that are parsed once at the edge, the stored order, the `order.placed`
//! event, and the attribute names of its tables.

pub mod attribute;
mod lines_digest;
mod model;
mod values;

pub use lines_digest::lines_digest;
pub use model::{Line, Order, OrderPlaced, OrderStatus, PlacedLine};
pub use values::{
    Currency, CustomerId, MAX_LINES, MAX_QUANTITY, MAX_UNIT_PRICE_MINOR, OrderId, Quantity, Sku,
    UnitPrice,
};

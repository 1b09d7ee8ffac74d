//! The order domain: values that are parsed once at the edge, the stored order,
//! and the `order.placed` event.

pub mod attribute;
mod model;
mod values;

pub use model::{Line, Order, OrderPlaced, OrderStatus, PlacedLine};
pub use values::{
    Currency, CustomerId, MAX_LINES, MAX_QUANTITY, MAX_UNIT_PRICE_MINOR, OrderId, Quantity, Sku,
    UnitPrice,
};

//! Values of an order. Each can only be created by its parser, so that code that has one never
//! checks it again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Upper bound on the lines of an order; the lower one is 1.
pub const MAX_LINES: usize = 50;
/// Upper bound on the pieces of a line; the lower one is 1.
pub const MAX_QUANTITY: u32 = 1_000_000;
/// Upper bound on the price of a piece, in the currency's minor unit; the lower one is 0.
pub const MAX_UNIT_PRICE_MINOR: u64 = 1_000_000_000_000;

const MAX_NAME_LENGTH: usize = 64;

fn name(text: String) -> Result<String, &'static str> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if (1..=MAX_NAME_LENGTH).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(text)
    } else {
        Err("must be 1 to 64 characters of A-Z a-z 0-9 . _ -")
    }
}

macro_rules! text_value {
    ($(#[$doc:meta])* $type:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $type(String);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            /// Requirement that the value does not meet.
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                $parse(text).map(Self)
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_value!(
    /// Customer: 1–64 of `[A-Za-z0-9._-]`.
    CustomerId,
    name
);
text_value!(
    /// Stock keeping unit: 1–64 of `[A-Za-z0-9._-]`.
    Sku,
    name
);
text_value!(
    /// Currency code with the syntax of ISO 4217: three capital letters.
    Currency,
    |text: String| {
        if text.len() == 3 && text.bytes().all(|c| c.is_ascii_uppercase()) {
            Ok(text)
        } else {
            Err("must be an ISO 4217 code: three capital letters")
        }
    }
);

/// Pieces on a line: 1–1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u64", try_from = "u64")]
pub struct Quantity(u32);

impl Quantity {
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u64> for Quantity {
    type Error = &'static str;

    fn try_from(count: u64) -> Result<Self, Self::Error> {
        u32::try_from(count)
            .ok()
            .filter(|count| (1..=MAX_QUANTITY).contains(count))
            .map(Self)
            .ok_or("must be a whole number from 1 to 1000000")
    }
}

impl From<Quantity> for u64 {
    fn from(quantity: Quantity) -> Self {
        quantity.0.into()
    }
}

/// Price of one piece in the currency's minor unit: 0–10^12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u64", try_from = "u64")]
pub struct UnitPrice(u64);

impl UnitPrice {
    pub fn minor(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for UnitPrice {
    type Error = &'static str;

    fn try_from(minor: u64) -> Result<Self, Self::Error> {
        if minor <= MAX_UNIT_PRICE_MINOR {
            Ok(Self(minor))
        } else {
            Err("must be a whole number from 0 to 1000000000000")
        }
    }
}

impl From<UnitPrice> for u64 {
    fn from(price: UnitPrice) -> Self {
        price.0
    }
}

/// Order id: a UUID, of version 7 if generated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct OrderId(Uuid);

impl OrderId {
    /// Generates an id; ids sort by the time of their creation.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for OrderId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Only the canonical spelling, because the id is a key.
        let id = Uuid::try_parse(text)
            .map(Self)
            .map_err(|_| "is not a UUID")?;
        if id.to_string() == text {
            Ok(id)
        } else {
            Err("is not a UUID in lower case with hyphens")
        }
    }
}

impl TryFrom<String> for OrderId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<OrderId> for String {
    fn from(id: OrderId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_64_plain_characters() {
        for ok in ["c-1", "A.b_C-9", &"x".repeat(64)] {
            assert!(Sku::try_from(ok.to_owned()).is_ok(), "{ok}");
        }
        for wrong in ["", &"x".repeat(65), "a b", "ä", "a\0", "a/b"] {
            assert!(CustomerId::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_keep_their_bounds() {
        assert!(Quantity::try_from(0).is_err());
        assert!(Quantity::try_from(1).is_ok());
        assert!(Quantity::try_from(1_000_000).is_ok());
        assert!(Quantity::try_from(1_000_001).is_err());
        assert!(Quantity::try_from(u64::MAX).is_err());
        assert!(UnitPrice::try_from(0).is_ok());
        assert!(UnitPrice::try_from(1_000_000_000_000).is_ok());
        assert!(UnitPrice::try_from(1_000_000_000_001).is_err());
    }

    #[test]
    fn an_order_id_has_one_spelling() {
        let id = OrderId::generate().to_string();
        assert!(id.parse::<OrderId>().is_ok());
        assert!(id.to_uppercase().parse::<OrderId>().is_err() || id == id.to_uppercase());
        assert!(id.replace('-', "").parse::<OrderId>().is_err());
        assert!("o-1".parse::<OrderId>().is_err());
    }
}

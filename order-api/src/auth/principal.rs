//! The authenticated sender of a request, and the customers for which it may act.

use std::sync::Arc;

use shared::order::CustomerId;

/// Written instead of a customer id for a principal that may act for every customer.
const ANY_CUSTOMER: &str = "*";

/// Customers for which a principal places and reads orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Customers {
    Any,
    Only(CustomerId),
}

impl Customers {
    /// Parses a customer id or `*`.
    ///
    /// # Errors
    /// The requirement that the text does not meet.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text == ANY_CUSTOMER {
            Ok(Self::Any)
        } else {
            CustomerId::try_from(text.to_owned()).map(Self::Only)
        }
    }
}

/// Sender of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// Identifies the principal for its rate limit: `key:<id>` or `jwt:<subject>`.
    /// `None` if the API requires no authentication.
    id: Option<Arc<str>>,
    customers: Customers,
}

impl Principal {
    /// Returns the principal of every request to an API that requires no authentication.
    pub(super) const fn anonymous() -> Self {
        Self {
            id: None,
            customers: Customers::Any,
        }
    }

    pub(super) fn new(id: String, customers: Customers) -> Self {
        Self {
            id: Some(id.into()),
            customers,
        }
    }

    pub(super) fn id(&self) -> Option<&Arc<str>> {
        self.id.as_ref()
    }

    /// Returns `true` if the principal may place and read orders of `customer`.
    pub(crate) fn may_act_for(&self, customer: &CustomerId) -> bool {
        match &self.customers {
            Customers::Any => true,
            Customers::Only(own) => own == customer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn customer(id: &str) -> CustomerId {
        id.to_owned().try_into().unwrap()
    }

    #[test]
    fn a_principal_acts_for_its_own_customer_only() {
        let principal = Principal::new("key:a".to_owned(), Customers::parse("c-1").unwrap());
        assert!(principal.may_act_for(&customer("c-1")));
        for other in ["c-2", "C-1", "c-", "c-11"] {
            assert!(!principal.may_act_for(&customer(other)), "{other}");
        }
    }

    #[test]
    fn an_asterisk_stands_for_every_customer() {
        let principal = Principal::new("key:a".to_owned(), Customers::parse("*").unwrap());
        assert!(principal.may_act_for(&customer("c-1")));
        for wrong in ["", "**", "c 1", "c-*"] {
            assert!(Customers::parse(wrong).is_err(), "{wrong}");
        }
    }
}

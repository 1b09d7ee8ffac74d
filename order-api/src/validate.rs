//! Validates the JSON of an order. All errors are collected, so that a client can correct its
//! request in one step.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Serialize;
use shared::order::{Currency, CustomerId, Line, MAX_LINES, Quantity, Sku, UnitPrice};
use utoipa::ToSchema;

use crate::strict_json::Json;

/// The most errors listed in one response. An order within its bounds has 153 fields; a request
/// with more errors is not a mistake any more, and the response should not outgrow the request.
const MAX_LISTED: usize = 200;

/// The largest total, in the currency's minor unit: every whole number up to this one is exact in a
/// double, the only number of JavaScript and of many JSON parsers.
pub(crate) const MAX_TOTAL_MINOR: u64 = (1 << 53) - 1;

/// A valid request. Requests are compared by their members in this order.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct NewOrder {
    pub(crate) customer_id: CustomerId,
    pub(crate) currency: Currency,
    pub(crate) items: Vec<Line>,
}

/// An invalid field.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// The field, as a JSON pointer (RFC 6901); empty for the whole body.
    #[schema(example = "/items/0/quantity")]
    pub(crate) pointer: String,
    /// Requirement that the field does not meet.
    #[schema(value_type = String, example = "must be a whole number from 1 to 1000000")]
    pub(crate) reason: Cow<'static, str>,
}

/// The invalid fields of a request, of which the first [`MAX_LISTED`] are kept.
#[derive(Debug, Default)]
pub(crate) struct FieldErrors {
    listed: Vec<FieldError>,
    count: usize,
}

impl FieldErrors {
    fn add(&mut self, at: At<'_>, reason: impl Into<Cow<'static, str>>) {
        self.count += 1;
        if self.listed.len() < MAX_LISTED {
            self.listed.push(FieldError {
                pointer: at.to_string(),
                reason: reason.into(),
            });
        }
    }

    pub(crate) fn into_listed(self) -> Vec<FieldError> {
        self.listed
    }
}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => f.write_str("1 field is not valid.")?,
            count => write!(f, "{count} fields are not valid.")?,
        }
        if self.count > self.listed.len() {
            write!(f, " The first {} are listed.", self.listed.len())?;
        }
        Ok(())
    }
}

/// Validates a whole order.
pub(crate) fn order(document: Json) -> Result<NewOrder, FieldErrors> {
    let mut errors = FieldErrors::default();
    let names = ["customer_id", "currency", "items"];
    let [customer_id, currency, items] = members(&mut errors, At::Root, document, names);
    let customer_id = customer_id.and_then(|json| text(&mut errors, At::Root, names[0], json));
    let currency = currency.and_then(|json| text(&mut errors, At::Root, names[1], json));
    let currency = currency.filter(|currency| is_listed(&mut errors, currency));
    let items = items.and_then(|json| lines(&mut errors, At::Member(&At::Root, names[2]), json));
    match (customer_id, currency, items) {
        (Some(customer_id), Some(currency), Some(items)) if errors.count == 0 => Ok(NewOrder {
            customer_id,
            currency,
            items,
        }),
        _ => Err(errors),
    }
}

/// Returns `true` if ISO 4217 lists the code. Checked here and not in [`Currency`], so that stored
/// orders with a code that was withdrawn can still be read.
fn is_listed(errors: &mut FieldErrors, currency: &Currency) -> bool {
    let listed = iso_currency::Currency::from_code(currency.as_str()).is_some();
    if !listed {
        let at = At::Member(&At::Root, "currency");
        errors.add(at, "is not a currency code of ISO 4217");
    }
    listed
}

fn lines(errors: &mut FieldErrors, at: At<'_>, json: Json) -> Option<Vec<Line>> {
    let Json::Array(items) = json else {
        errors.add(at, "must be an array of 1 to 50 items");
        return None;
    };
    if items.is_empty() || items.len() > MAX_LINES {
        errors.add(at, "must have 1 to 50 items");
    }
    let mut first_with: HashMap<Sku, usize> = HashMap::new();
    let mut lines = Vec::with_capacity(items.len().min(MAX_LINES));
    for (n, item) in items.into_iter().take(MAX_LINES).enumerate() {
        let at = At::Item(&at, n);
        let names = ["sku", "quantity", "unit_price_minor"];
        let [sku, quantity, price] = members(errors, at, item, names);
        let sku: Option<Sku> = sku.and_then(|json| text(errors, at, names[0], json));
        if let Some(sku) = &sku {
            if let Some(first) = first_with.get(sku) {
                let reason = format!("repeats the SKU of item {first}");
                errors.add(At::Member(&at, names[0]), reason);
            } else {
                first_with.insert(sku.clone(), n);
            }
        }
        let quantity = quantity.and_then(|json| number::<Quantity>(errors, at, names[1], &json));
        let price = price.and_then(|json| number::<UnitPrice>(errors, at, names[2], &json));
        if let (Some(sku), Some(quantity), Some(unit_price_minor)) = (sku, quantity, price) {
            lines.push(Line {
                sku,
                quantity,
                unit_price_minor,
            });
        }
    }
    let prices = lines
        .iter()
        .map(|line| u128::from(line.quantity.get()) * u128::from(line.unit_price_minor.minor()));
    if prices.sum::<u128>() > MAX_TOTAL_MINOR.into() {
        let reason = format!("must have a total of at most {MAX_TOTAL_MINOR}");
        errors.add(at, reason);
    }
    Some(lines)
}

/// Returns the named members of an object; of a repeated member, the first.
fn members<const N: usize>(
    errors: &mut FieldErrors,
    at: At<'_>,
    json: Json,
    names: [&'static str; N],
) -> [Option<Json>; N] {
    let mut found = [const { None }; N];
    let Json::Object(members) = json else {
        errors.add(at, "must be an object");
        return found;
    };
    for (name, value) in members {
        let at = At::Member(&at, &name);
        match names.iter().position(|known| *known == name) {
            None => errors.add(at, "is not a known field"),
            Some(n) if found[n].is_some() => errors.add(at, "is given more than once"),
            Some(n) => found[n] = Some(value),
        }
    }
    for (name, value) in names.iter().zip(&found) {
        if value.is_none() {
            errors.add(At::Member(&at, name), "is missing");
        }
    }
    found
}

fn text<T>(errors: &mut FieldErrors, object: At<'_>, name: &str, json: Json) -> Option<T>
where
    T: TryFrom<String, Error = &'static str>,
{
    let parsed = match json {
        Json::String(text) => T::try_from(text),
        _ => Err("must be a string"),
    };
    parsed
        .map_err(|reason| errors.add(At::Member(&object, name), reason))
        .ok()
}

fn number<T>(errors: &mut FieldErrors, object: At<'_>, name: &str, json: &Json) -> Option<T>
where
    T: TryFrom<u64, Error = &'static str>,
{
    let whole = match json {
        Json::Number(number) => whole(number),
        _ => None,
    };
    // No bound is near this value, so its error also covers everything that is not a whole number.
    T::try_from(whole.unwrap_or(u64::MAX))
        .map_err(|reason| errors.add(At::Member(&object, name), reason))
        .ok()
}

/// Returns the number if it is whole and not negative. To JSON and JSON Schema, 1, 1.0 and 1e0 are
/// the same number.
fn whole(number: &serde_json::Number) -> Option<u64> {
    // Every whole number below this is exact in a double, and no bound is above it.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    number.as_u64().or_else(|| {
        let float = number.as_f64()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is whole and within range"
        )]
        (float.fract() == 0.0 && (0.0..EXACT).contains(&float)).then_some(float as u64)
    })
}

/// Position of a value; formatted only if the value is invalid.
#[derive(Clone, Copy)]
enum At<'a> {
    Root,
    Member(&'a At<'a>, &'a str),
    Item(&'a At<'a>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(object, name) => {
                write!(f, "{object}/{}", name.replace('~', "~0").replace('/', "~1"))
            }
            Self::Item(array, n) => write!(f, "{array}/{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(body: &str) -> Vec<(String, String)> {
        match order(Json::parse(body.as_bytes()).unwrap()) {
            Ok(_) => Vec::new(),
            Err(errors) => errors
                .into_listed()
                .into_iter()
                .map(|error| (error.pointer, error.reason.into_owned()))
                .collect(),
        }
    }

    fn pointers(body: &str) -> Vec<String> {
        problems(body).into_iter().map(|(at, _)| at).collect()
    }

    const ITEM: &str = r#"{"sku":"A","quantity":1,"unit_price_minor":0}"#;

    #[test]
    fn all_errors_are_found_at_once() {
        let body = r#"{"customer_id":7,"currency":"eur","note":"x","items":[
            {"sku":"A","quantity":"2","unit_price_minor":-1},
            {"sku":"","quantity":1.5,"unit_price_minor":9223372036854775808,"x/y~z":null},
            {"sku":"B","quantity":1,"unit_price_minor":1},
            {"sku":"B","quantity":0,"unit_price_minor":1e30},
            []
        ]}"#;
        assert_eq!(
            pointers(body),
            [
                "/note",
                "/customer_id",
                "/currency",
                "/items/0/quantity",
                "/items/0/unit_price_minor",
                "/items/1/x~1y~0z",
                "/items/1/sku",
                "/items/1/quantity",
                "/items/1/unit_price_minor",
                "/items/3/sku",
                "/items/3/quantity",
                "/items/3/unit_price_minor",
                "/items/4",
            ]
        );
    }

    #[test]
    fn missing_and_repeated_members_are_named() {
        assert_eq!(
            problems(&format!(
                r#"{{"currency":"EUR","currency":"USD","items":[{ITEM}]}}"#
            )),
            [
                ("/currency".to_owned(), "is given more than once".to_owned()),
                ("/customer_id".to_owned(), "is missing".to_owned()),
            ]
        );
        for not_an_object in ["[]", "null", "1", "\"x\"", "true"] {
            let found = problems(not_an_object);
            assert_eq!(found[0], (String::new(), "must be an object".to_owned()));
        }
    }

    #[test]
    fn the_list_of_errors_is_bounded_and_states_that_it_is() {
        let members: Vec<_> = (0..1_000).map(|n| format!(r#""f{n}":0"#)).collect();
        let body = format!("{{{}}}", members.join(","));
        let errors = order(Json::parse(body.as_bytes()).unwrap()).unwrap_err();
        assert_eq!(
            errors.to_string(),
            "1003 fields are not valid. The first 200 are listed."
        );
        assert_eq!(errors.into_listed().len(), MAX_LISTED);
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_fraction_or_exponent() {
        for (text, number) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("2.0", Some(2)),
            ("1e3", Some(1_000)),
            ("1.5", None),
            ("-1", None),
            ("1e30", None),
        ] {
            assert_eq!(whole(&text.parse().unwrap()), number, "{text}");
        }
    }

    #[test]
    fn a_valid_order_is_accepted() {
        let body = format!(r#"{{"items":[{ITEM}],"currency":"EUR","customer_id":"c-1"}}"#);
        let order = order(Json::parse(body.as_bytes()).unwrap()).unwrap();
        assert_eq!(order.items.len(), 1);
        assert_eq!(order.customer_id.as_str(), "c-1");
    }
}

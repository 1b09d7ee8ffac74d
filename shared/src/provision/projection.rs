//! Projection of the outbox table's index: what it must have, and how that of an existing table
//! differs.

use aws_sdk_dynamodb::types::{Projection, ProjectionType};
use outbox::item::attribute;

/// Attributes of an event in the index, besides the keys. The payload is not one of them: each of
/// its KB would be paid for twice more, and would count against the index's write capacity.
pub(super) const INDEX_ATTRIBUTES: [&str; 5] = [
    attribute::EVENT_ID,
    attribute::EVENT_TYPE,
    attribute::FAILED_AT,
    attribute::RETRIED_AT,
    attribute::REPLAYED_AT,
];

/// Steps to replace the index, whose projection cannot be changed. DynamoDB limits how fast an
/// index is filled in on-demand mode, and throttles writers beyond it.
pub(super) const REPLACEMENT: &str = "\
delete the index if there is one, wait until it is deleted, and create it again with UpdateTable \
and the projection INCLUDE of event_id, event_type, failed_at, retried_at, replayed_at, at a time \
of low traffic. Until it is ACTIVE, events are published from the stream only: sweeps and lists \
fail, and deferred events wait";

/// Difference between the projection of an existing index and [`INDEX_ATTRIBUTES`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Projects {
    Exactly,
    /// More than is needed, which costs more.
    More,
    /// Too little: relays and operators cannot read it.
    Less,
}

/// Returns the projection of a new index.
pub(super) fn new_projection() -> Projection {
    Projection::builder()
        .projection_type(ProjectionType::Include)
        .set_non_key_attributes(Some(INDEX_ATTRIBUTES.map(str::to_owned).into()))
        .build()
}

/// Compares the projection of an existing index with that of a new one.
pub(super) fn compare_projection(projection: Option<&Projection>) -> Projects {
    let (kind, found) = projection.map_or((None, &[][..]), |projection| {
        let kind = projection.projection_type.as_ref();
        (kind, projection.non_key_attributes())
    });
    let has_all = INDEX_ATTRIBUTES
        .iter()
        .all(|name| found.iter().any(|found| found == name));
    match kind {
        Some(ProjectionType::All) => Projects::More,
        Some(ProjectionType::Include) if has_all && found.len() == INDEX_ATTRIBUTES.len() => {
            Projects::Exactly
        }
        Some(ProjectionType::Include) if has_all => Projects::More,
        _ => Projects::Less,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacement_names_the_attributes() {
        assert!(REPLACEMENT.contains(&INDEX_ATTRIBUTES.join(", ")));
    }

    #[test]
    fn projection_is_compared_whatever_its_order() {
        let compared = |projection_type, attributes: &[&str]| {
            let names = attributes.iter().map(|name| (*name).to_owned()).collect();
            let projection = Projection::builder()
                .projection_type(projection_type)
                .set_non_key_attributes(Some(names))
                .build();
            compare_projection(Some(&projection))
        };
        let mut reversed = INDEX_ATTRIBUTES.to_vec();
        reversed.reverse();
        assert_eq!(
            compared(ProjectionType::Include, &reversed),
            Projects::Exactly
        );
        reversed.push("payload");
        assert_eq!(compared(ProjectionType::Include, &reversed), Projects::More);
        assert_eq!(compared(ProjectionType::All, &[]), Projects::More);
        assert_eq!(
            compared(ProjectionType::Include, &["event_id"]),
            Projects::Less
        );
        assert_eq!(compared(ProjectionType::KeysOnly, &[]), Projects::Less);
    }
}

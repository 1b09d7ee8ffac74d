//! Routing of events to queues: `RELAY_ROUTES`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use shared::aws::resource_names::parse_queue;

/// Name of [`QueueRef::unrouted`]; no queue can have it.
const UNROUTED: &str = "(no route)";

/// Name or URL of a queue. It is a FIFO queue if it ends in `.fifo`.
///
/// [`QueueRef::unrouted`] stands for the missing queue of events that no route matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueRef(Arc<str>);

impl QueueRef {
    pub fn new(name_or_url: &str) -> Self {
        Self(name_or_url.into())
    }

    /// Returns the destination of events that no route matches: nothing is ever sent to it.
    pub fn unrouted() -> Self {
        Self::new(UNROUTED)
    }

    /// Returns `false` for [`QueueRef::unrouted`].
    pub fn is_routed(&self) -> bool {
        &*self.0 != UNROUTED
    }

    /// Returns the name or URL as it was configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name; of a URL, its last path segment.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    pub fn is_fifo(&self) -> bool {
        self.0.ends_with(".fifo")
    }
}

impl fmt::Display for QueueRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Target of a route that quarantines events. No queue has such a name.
const QUARANTINE: &str = "!quarantine";

/// Target of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Queue(QueueRef),
    /// Events of this type are quarantined.
    Quarantine,
}

/// Routing table: the first pattern that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes(Vec<(String, Target)>);

impl Routes {
    /// Returns the target of `event_type`, or `None` if no pattern matches.
    pub fn target_of(&self, event_type: &str) -> Option<&Target> {
        self.0
            .iter()
            .find(|(pattern, _)| matches(pattern, event_type))
            .map(|(_, target)| target)
    }

    /// Returns every queue of the table, once.
    pub fn queues(&self) -> impl Iterator<Item = &QueueRef> {
        let mut queues = Vec::new();
        for (_, target) in &self.0 {
            if let Target::Queue(queue) = target
                && !queues.contains(&queue)
            {
                queues.push(queue);
            }
        }
        queues.into_iter()
    }
}

/// Returns `true` if `text` matches `pattern`; `*` matches any number of characters, including
/// none.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

impl FromStr for Routes {
    type Err = String;

    /// `order.*=order-events,test.*=!quarantine,*=everything-else`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let routes = text
            .split(',')
            .map(|route| {
                let (pattern, queue) = route.split_once('=').ok_or_else(|| {
                    format!("`{route}` is not `event type pattern=queue name or URL`")
                })?;
                let (pattern, queue) = (pattern.trim(), queue.trim());
                if pattern.is_empty() || queue.is_empty() {
                    return Err(format!("`{route}` names no event type pattern or no queue"));
                }
                let target = if queue == QUARANTINE {
                    Target::Quarantine
                } else {
                    parse_queue(queue).map_err(|reason| format!("`{queue}`: {reason}"))?;
                    Target::Queue(QueueRef::new(queue))
                };
                Ok((pattern.to_owned(), target))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self(routes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_characters() {
        for (pattern, text, expected) in [
            ("*", "anything", true),
            ("*", "", true),
            ("order.*", "order.placed", true),
            ("order.*", "orders.placed", false),
            ("order.placed", "order.placed", true),
            ("order.placed", "order.placed.v2", false),
            ("*.placed", "order.placed", true),
            ("*.placed", "order.placed.v2", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_first_matching_pattern_decides() {
        let routes: Routes = "order.placed=a, order.*=b.fifo ,*=http://localhost:9324/0/c"
            .parse()
            .unwrap();
        let queue = |event_type| match routes.target_of(event_type) {
            Some(Target::Queue(queue)) => queue.clone(),
            other => panic!("{event_type}: {other:?}"),
        };
        assert_eq!(queue("order.placed").name(), "a");
        assert_eq!(queue("order.paid").name(), "b.fifo");
        assert_eq!(queue("stock.moved").name(), "c");
        assert!(queue("order.paid").is_fifo());
        let only: Routes = "order.*=a".parse().unwrap();
        assert_eq!(only.target_of("stock.moved"), None);
    }

    #[test]
    fn a_route_may_quarantine() {
        let routes: Routes = "test.*=!quarantine,a=q,*=q".parse().unwrap();
        assert_eq!(routes.target_of("test.x"), Some(&Target::Quarantine));
        assert!(routes.queues().eq([&QueueRef::new("q")]));
    }

    #[test]
    fn a_malformed_route_is_rejected() {
        for wrong in [
            "",
            "order.*",
            "=a",
            "a=",
            "a=b,",
            "a=not a queue",
            "a=https://",
            "a=.fifo",
            "a=!discard",
            "a=(no route)",
        ] {
            assert!(wrong.parse::<Routes>().is_err(), "{wrong}");
        }
    }
}

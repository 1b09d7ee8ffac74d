//! W3C trace context between a span and the text that is stored or sent.

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The two W3C headers of a span, as stored with an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
}

impl TraceContext {
    /// The context of the span in `context`; empty when there is none.
    pub fn of(context: &Context) -> Self {
        let mut stored = Self::default();
        TraceContextPropagator::new().inject_context(context, &mut stored);
        stored
    }

    /// A context whose span is the remote one named here. What is malformed is
    /// ignored, as W3C asks: the result then has no span, and a new trace
    /// starts from it.
    pub fn to_context(&self) -> Context {
        TraceContextPropagator::new().extract_with_context(&Context::new(), self)
    }

    /// The trace id, when there is a well-formed one.
    pub fn trace_id(&self) -> Option<String> {
        let context = self.to_context();
        let span = context.span();
        let span_context = span.span_context();
        span_context
            .is_valid()
            .then(|| span_context.trace_id().to_string())
    }
}

impl Injector for TraceContext {
    fn set(&mut self, key: &str, value: String) {
        match key {
            "traceparent" => self.traceparent = Some(value),
            // An empty list says nothing, and SQS refuses empty attributes.
            "tracestate" if !value.is_empty() => self.tracestate = Some(value),
            _ => {}
        }
    }
}

impl Extractor for TraceContext {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent.as_deref(),
            "tracestate" => self.tracestate.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(traceparent: &str) -> TraceContext {
        TraceContext {
            traceparent: Some(traceparent.to_owned()),
            tracestate: Some("vendor=1".to_owned()),
        }
    }

    #[test]
    fn a_stored_context_comes_back_unchanged() {
        let context = stored("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(TraceContext::of(&context.to_context()), context);
        assert_eq!(
            context.trace_id().as_deref(),
            Some("0af7651916cd43dd8448eb211c80319c")
        );
    }

    #[test]
    fn a_malformed_context_is_no_context() {
        for wrong in [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "zz-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        ] {
            assert_eq!(stored(wrong).trace_id(), None, "{wrong}");
        }
    }
}

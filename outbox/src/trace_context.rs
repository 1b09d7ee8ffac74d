//! W3C trace context, as it is stored with an event and sent with its message.

#[cfg(feature = "opentelemetry")]
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::TraceContextExt,
};
#[cfg(feature = "opentelemetry")]
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// Upper bound on a stored `tracestate`, in bytes. A longer one is dropped: W3C Trace Context
/// requires that 512 characters are propagated, and the item and the message have limits.
pub const MAX_TRACESTATE_BYTES: usize = 512;

/// The two headers of W3C Trace Context, as text. They are not validated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// Trace id, parent span id and flags, such as
    /// `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
    pub traceparent: Option<String>,
    /// Vendors' own key-value pairs, such as `vendor=1`. Dropped when the event is stored if it is
    /// longer than [`MAX_TRACESTATE_BYTES`].
    pub tracestate: Option<String>,
}

#[cfg(feature = "opentelemetry")]
impl TraceContext {
    /// Returns the context of the span in `context`; empty if it has no valid span.
    pub fn from_context(context: &Context) -> Self {
        let mut headers = Self::default();
        TraceContextPropagator::new().inject_context(context, &mut headers);
        headers
    }

    /// Returns an OpenTelemetry context with the remote span that the headers name. Malformed
    /// headers are ignored, as W3C specifies: the result then has no span, and a span created in it
    /// starts a new trace.
    pub fn to_context(&self) -> Context {
        TraceContextPropagator::new().extract_with_context(&Context::new(), self)
    }

    /// Returns the trace id, 32 hexadecimal digits, or `None` if `traceparent` is missing or
    /// malformed.
    pub fn trace_id(&self) -> Option<String> {
        let context = self.to_context();
        let span = context.span();
        let span_context = span.span_context();
        span_context
            .is_valid()
            .then(|| span_context.trace_id().to_string())
    }
}

#[cfg(feature = "opentelemetry")]
impl Injector for TraceContext {
    fn set(&mut self, key: &str, value: String) {
        match key {
            "traceparent" => self.traceparent = Some(value),
            // SQS rejects empty attributes, and an empty list carries no information.
            "tracestate" if !value.is_empty() => self.tracestate = Some(value),
            _ => {}
        }
    }
}

#[cfg(feature = "opentelemetry")]
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

#[cfg(all(test, feature = "opentelemetry"))]
mod tests {
    use super::*;

    fn stored(traceparent: &str) -> TraceContext {
        TraceContext {
            traceparent: Some(traceparent.to_owned()),
            tracestate: Some("vendor=1".to_owned()),
        }
    }

    #[test]
    fn stored_context_reads_back_unchanged() {
        let context = stored("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(TraceContext::from_context(&context.to_context()), context);
        assert_eq!(
            context.trace_id().as_deref(),
            Some("0af7651916cd43dd8448eb211c80319c")
        );
    }

    #[test]
    fn malformed_context_has_no_trace_id() {
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

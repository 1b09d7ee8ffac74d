//! The addresses that `up` prints once everything is ready.

use std::fmt;
use std::io::Write;

/// Addresses of the system.
#[derive(Debug)]
pub(crate) struct Banner {
    pub(crate) api: String,
    pub(crate) api_admin: String,
    pub(crate) relay: String,
    pub(crate) worker: String,
    pub(crate) dynamodb: String,
    pub(crate) sqs: String,
    /// Pids of the first three.
    pub(crate) pids: Vec<Option<u32>>,
    /// Header of a request to the API, if it requires credentials.
    pub(crate) credentials: Option<&'static str>,
    /// Endpoint of traces and metrics, if they are exported.
    pub(crate) otlp: Option<String>,
}

impl Banner {
    pub(crate) fn print(&self) {
        // A closed standard output is not an error.
        let _ = write!(std::io::stdout().lock(), "{self}");
    }

    fn pid(&self, service: usize) -> String {
        match self.pids.get(service).copied().flatten() {
            Some(pid) => format!("pid {pid}"),
            None => "restarting".to_owned(),
        }
    }
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            api,
            api_admin,
            relay,
            worker,
            dynamodb,
            sqs,
            ..
        } = self;
        writeln!(f, "\nEverything is running.\n")?;
        for (service, name, url, more) in [
            (0, "order-api", api, "/docs"),
            (1, "outbox-relay", relay, "/"),
            (2, "inventory-worker", worker, "/metrics"),
        ] {
            let pid = self.pid(service);
            writeln!(f, "  {name:<18}{url}{more:<10}{pid}")?;
        }
        writeln!(f, "  {:<18}{api_admin}/metrics", "order-api metrics")?;
        writeln!(f, "  {:<18}{dynamodb}", "DynamoDB, Streams")?;
        writeln!(f, "  {:<18}{sqs}\n", "SQS")?;
        let credentials = self.credentials.map(|header| format!(" -H '{header}'"));
        let credentials = credentials.unwrap_or_default();
        writeln!(f, "Place an order:\n")?;
        writeln!(
            f,
            "  curl -i {api}/orders{credentials} -H 'content-type: application/json' -d '{ORDER}'\n"
        )?;
        writeln!(
            f,
            "Then query its Location; a moment later its status is PROCESSED:\n"
        )?;
        writeln!(f, "  curl{credentials} {api}/orders/<order_id>\n")?;
        writeln!(f, "Kill a service and watch it recover:  kill -9 <pid>")?;
        if let Some(otlp) = self.otlp.as_deref().filter(|endpoint| !endpoint.is_empty()) {
            writeln!(
                f,
                "Traces and metrics go to {otlp}; with Jaeger beside it they are at http://localhost:16686"
            )?;
        }
        writeln!(f, "Stop everything with Ctrl-C.\n")
    }
}

const ORDER: &str = r#"{"customer_id":"c-1","currency":"EUR","items":[{"sku":"WIDGET-1","quantity":2,"unit_price_minor":1999}]}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_curl_command_is_valid_in_a_shell() {
        let mut banner = Banner {
            api: "http://127.0.0.1:8080".to_owned(),
            api_admin: "http://127.0.0.1:8083".to_owned(),
            relay: "http://127.0.0.1:8081".to_owned(),
            worker: "http://127.0.0.1:8082".to_owned(),
            dynamodb: "http://127.0.0.1:8000".to_owned(),
            sqs: "http://127.0.0.1:9324".to_owned(),
            pids: vec![Some(11), None, Some(13)],
            credentials: None,
            otlp: None,
        };
        let text = banner.to_string();
        assert!(
            text.contains("curl -i http://127.0.0.1:8080/orders -H"),
            "{text}"
        );
        assert!(text.contains("pid 11") && text.contains("pid 13"), "{text}");
        assert!(!text.contains("Jaeger"), "{text}");
        banner.credentials = Some("X-API-Key: <key>");
        let text = banner.to_string();
        assert!(
            text.contains("/orders -H 'X-API-Key: <key>' -H 'content-type"),
            "{text}"
        );
    }
}

//! Checks the environment variables of the AWS SDK and of OpenTelemetry. Both ignore values that
//! they cannot parse, and fall back to a different endpoint.

use crate::aws::resource_names::is_http_url;

const AWS_ENDPOINTS: [&str; 4] = [
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_ENDPOINT_URL_DYNAMODB_STREAMS",
    "AWS_ENDPOINT_URL_SQS",
];

pub(crate) const OTLP_ENDPOINTS: [&str; 3] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
];

const OTLP_PROTOCOLS: [&str; 3] = [
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
];

/// Names in OpenTelemetry's specification.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// Checks the AWS endpoints.
///
/// # Errors
/// A sentence about the first invalid variable.
pub(crate) fn check_aws(get: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    check_urls(&AWS_ENDPOINTS, get)
}

/// Checks exporter and sampler.
///
/// # Errors
/// A sentence about the first invalid variable.
pub(crate) fn check_telemetry(get: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    check_urls(&OTLP_ENDPOINTS, &get)?;
    for name in OTLP_PROTOCOLS {
        if let Some(value) = get(name)
            && value != "grpc"
        {
            return Err(format!("{name} is `{value}`; only grpc is supported"));
        }
    }
    match get("OTEL_TRACES_SAMPLER") {
        Some(value) if !SAMPLERS.contains(&&*value) => Err(format!(
            "OTEL_TRACES_SAMPLER is `{value}`; it must be one of {}",
            SAMPLERS.join(", ")
        )),
        _ => Ok(()),
    }
}

/// Returns the value of a variable; `None` if it is empty or not set.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(|value| value.to_string_lossy().into_owned())
}

fn check_urls(names: &[&str], get: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    for name in names {
        // The value may contain a password, so the error does not quote it.
        if get(name).is_some_and(|value| !is_http_url(&value)) {
            return Err(format!(
                "{name} is not an http:// or https:// URL, such as http://localhost:8000"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_the_libraries_would_ignore_are_rejected() {
        let set = |name: &'static str, value: &'static str| {
            move |variable: &str| (variable == name).then(|| value.to_owned())
        };
        for name in AWS_ENDPOINTS {
            assert!(check_aws(set(name, "http://localhost:8000")).is_ok());
            let reason = check_aws(set(name, "localhost:8000")).unwrap_err();
            assert!(reason.contains(name), "{reason}");
        }
        for (name, good, wrong) in [
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "http://localhost:4317",
                "localhost:4317",
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("OTEL_TRACES_SAMPLER", "traceidratio", "sometimes"),
        ] {
            assert!(check_telemetry(set(name, good)).is_ok());
            let reason = check_telemetry(set(name, wrong)).unwrap_err();
            assert!(reason.contains(name), "{reason}");
        }
    }
}

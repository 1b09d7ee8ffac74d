//! The report as one HTML page: `page.html` with the JSON report embedded in it, which `page.js`
//! renders. It loads nothing, neither from the network nor from other files.

use super::Report;

const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");

/// Returns the page.
///
/// # Errors
/// The report cannot be serialized.
pub(super) fn page(report: &Report) -> serde_json::Result<String> {
    // A `<` could end the script element that contains the JSON, or open a comment in it.
    let json = serde_json::to_string(report)?.replace('<', "\\u003c");
    // The JSON is inserted last: text in it is not taken for a placeholder.
    Ok(PAGE
        .replace("{{seed}}", &report.settings.seed.to_string())
        .replace("{{script}}", SCRIPT)
        .replace("{{report}}", &json))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use serde_json::Value;

    use super::*;
    use crate::analysis::fault_windows::DisturbanceKind;
    use crate::checkers::{check, fixture};
    use crate::history::FaultKind;

    /// Returns the text of the script element with the report.
    fn embedded(page: &str) -> &str {
        let (_, rest) = page
            .split_once(r#"<script id="report" type="application/json">"#)
            .unwrap();
        rest.split_once("</script>").unwrap().0
    }

    #[test]
    fn the_page_contains_the_json_report() {
        let history = fixture::valid();
        let report = Report::of(&history, &[]);
        let page = page(&report).unwrap();
        let embedded: Value = serde_json::from_str(embedded(&page)).unwrap();
        assert_eq!(embedded, serde_json::to_value(&report).unwrap());
        assert!(page.contains("<title>Chaos run, seed 0</title>"));
    }

    #[test]
    fn text_of_the_report_cannot_end_its_script_element() {
        let mut history = fixture::valid();
        let evil = "</script><script>alert(1)</script><!--{{report}}{{script}}&\"'";
        history.settings.started_at = evil.to_owned();
        history.settings.endpoint = Some(evil.to_owned());
        for life in &mut history.lives {
            life.process.push_str(evil);
        }
        for sample in &mut history.memory {
            sample.process.push_str(evil);
        }
        history.end.outbox[0].event_id = evil.to_owned();
        let violations = check(&history);
        assert!(!violations.is_empty());
        let report = Report::of(&history, &violations);
        let page = page(&report).unwrap();
        let embedded = embedded(&page);
        assert!(!embedded.contains('<'));
        let embedded: Value = serde_json::from_str(embedded).unwrap();
        assert_eq!(embedded["settings"]["endpoint"], evil);
        assert_eq!(embedded, serde_json::to_value(&report).unwrap());
    }

    #[test]
    fn the_script_sets_values_as_text_only() {
        for unsafe_call in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!SCRIPT.contains(unsafe_call), "{unsafe_call}");
        }
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = page(&Report::of(&fixture::valid(), &[])).unwrap();
        for outside in ["http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn every_kind_of_fault_has_one_lane() {
        let (_, rest) = SCRIPT.split_once("const LANES = ").unwrap();
        let lanes: Value = serde_json::from_str(rest.split_once(';').unwrap().0).unwrap();
        for kind in FaultKind::value_variants() {
            let name = Value::from(kind.name());
            let has_kind = |lane: &&Value| lane["kinds"].as_array().unwrap().contains(&name);
            let lanes = lanes.as_array().unwrap().iter().filter(has_kind).count();
            let is_of_one_request = DisturbanceKind::Fault(*kind).is_of_one_request();
            assert_eq!(lanes, usize::from(!is_of_one_request), "{kind:?}");
        }
    }
}

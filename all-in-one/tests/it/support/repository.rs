//! Files of the repository that no program reads, but users do.

use serde_json::Value;

/// The text of a file, by its path from the repository's root.
pub(crate) fn repository_file(path: &str) -> String {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The same, read as YAML.
pub(crate) fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&repository_file(path)).unwrap()
}

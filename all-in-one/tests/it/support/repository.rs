//! Files of the repository for users and tools, which no program reads.

use serde_json::Value;

/// Returns the text of a file, by its path from the root of the repository.
pub(crate) fn repository_file(path: &str) -> String {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns a file of the repository, parsed as YAML.
pub(crate) fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&repository_file(path)).unwrap()
}

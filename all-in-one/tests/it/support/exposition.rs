//! The Prometheus text format, as far as a test needs to read it.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::collections::{BTreeMap, BTreeSet};

/// One line of a scrape.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Name with its suffix, such as `_bucket`.
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// A response of `/metrics`.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) text: String,
    /// Types of the metrics by name.
    pub(crate) types: BTreeMap<String, String>,
    pub(crate) samples: Vec<Sample>,
}

impl Scrape {
    pub(crate) async fn of(url: &str) -> Self {
        let answer = reqwest::get(url).await.unwrap();
        assert_eq!(answer.status(), 200);
        Self::read(answer.text().await.unwrap())
    }

    pub(crate) fn read(text: String) -> Self {
        let mut types = BTreeMap::new();
        let mut samples = Vec::new();
        for line in text.lines() {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declared.split_once(' ').unwrap();
                types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') && !line.is_empty() {
                samples.push(sample(line));
            }
        }
        Self {
            text,
            types,
            samples,
        }
    }

    /// Returns the samples of a metric; those of a histogram are its buckets, its sum and its
    /// count.
    pub(crate) fn of_metric<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            let rest = sample.name.strip_prefix(name);
            rest.is_some_and(|rest| matches!(rest, "" | "_bucket" | "_sum" | "_count"))
        })
    }

    /// Returns the labels of a metric, without the bound of a bucket.
    pub(crate) fn labels(&self, name: &str) -> BTreeSet<String> {
        let labels = self.of_metric(name).flat_map(|s| s.labels.keys().cloned());
        labels.filter(|label| label != "le").collect()
    }

    /// Returns the value of the one sample that has this name and at least these labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.samples.iter().filter(|sample| {
            let has = |(label, value): &(&str, &str)| {
                sample.labels.get(*label).map(String::as_str) == Some(value)
            };
            sample.name == name && labels.iter().all(has)
        });
        let value = found.next()?.value;
        assert!(found.next().is_none(), "{name} {labels:?} is not one");
        Some(value)
    }
}

/// Parses `name{label="value",…} number`.
fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
        None => (series, ""),
    };
    Sample {
        name: name.to_owned(),
        labels: read_labels(labels),
        value: value.parse().unwrap(),
    }
}

fn read_labels(mut text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let mut value = String::new();
        let mut characters = rest.char_indices();
        loop {
            match characters.next().unwrap() {
                (end, '"') => {
                    text = rest[end + 1..].trim_start_matches(',');
                    break;
                }
                (_, '\\') => value.push(match characters.next().unwrap().1 {
                    'n' => '\n',
                    escaped => escaped,
                }),
                (_, character) => value.push(character),
            }
        }
        labels.insert(name.to_owned(), value);
    }
    labels
}

//! Sibling modules of every crate depend on each other in one direction.
//!
//! A module and its own submodules may refer to each other. Everything else must be free of cycles:
//! at every level, the modules below one parent, each taken together with its submodules, form a
//! directed acyclic graph. Paths that begin with `crate`, `self` or `super` count, in `use`
//! declarations, expressions and macro calls; test modules do not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Path of a module from its crate's root; empty for the root itself.
type Module = Vec<String>;

/// The modules of one crate and the modules that each of them refers to.
#[derive(Debug, Default)]
struct Crate {
    paths: BTreeMap<Module, Vec<Vec<String>>>,
}

impl Crate {
    /// Reads the sources below `root`, from `lib.rs` or, in a crate without one, `main.rs`.
    fn read(root: &Path) -> Self {
        let mut this = Self::default();
        let main = ["lib.rs", "main.rs"]
            .map(|name| root.join(name))
            .into_iter()
            .find(|file| file.exists())
            .unwrap_or_else(|| panic!("{}: neither lib.rs nor main.rs", root.display()));
        this.read_file(&main, root, Module::new());
        this
    }

    /// Reads `file`, whose submodules are in `folder`.
    fn read_file(&mut self, file: &Path, folder: &Path, module: Module) {
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let tokens = text
            .parse()
            .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        self.read_tokens(tokens, folder, module);
    }

    fn read_tokens(&mut self, tokens: TokenStream, folder: &Path, module: Module) {
        let mut paths = Vec::new();
        let mut submodules = Vec::new();
        scan(tokens, &mut paths, &mut submodules);
        self.paths.insert(module.clone(), paths);
        for (name, body) in submodules {
            let mut child = module.clone();
            child.push(name.clone());
            let child_folder = folder.join(&name);
            match body {
                Some(body) => self.read_tokens(body, &child_folder, child),
                None => {
                    let flat = folder.join(format!("{name}.rs"));
                    let file = if flat.exists() {
                        flat
                    } else {
                        child_folder.join("mod.rs")
                    };
                    self.read_file(&file, &child_folder, child);
                }
            }
        }
    }

    /// Returns every reference from one module to another.
    fn references(&self) -> BTreeSet<(Module, Module)> {
        let mut references = BTreeSet::new();
        for (module, paths) in &self.paths {
            for path in paths {
                let Some(mut target) = absolute(module, path) else {
                    continue;
                };
                // The rest of the path names an item of the module.
                while !self.paths.contains_key(&target) {
                    target.pop();
                }
                references.insert((module.clone(), target));
            }
        }
        references
    }

    /// Returns the cycles among sibling modules, each as the list of its members.
    fn cycles(&self) -> Vec<Vec<String>> {
        // Per parent: which child subtree refers to which other.
        let mut siblings: BTreeMap<Module, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for (from, to) in self.references() {
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            // A module and its own submodules may refer to each other.
            if let (Some(a), Some(b)) = (from.get(common), to.get(common)) {
                let graph = siblings.entry(from[..common].to_vec()).or_default();
                graph.entry(a.clone()).or_default().insert(b.clone());
            }
        }
        let mut cycles = Vec::new();
        for (parent, graph) in siblings {
            let mut reported = BTreeSet::new();
            for start in graph.keys() {
                if reported.contains(start) {
                    continue;
                }
                let forward = reachable(&graph, start);
                let members: Vec<_> = forward
                    .iter()
                    .filter(|other| reachable(&graph, other).contains(start))
                    .cloned()
                    .collect();
                if !members.is_empty() {
                    reported.extend(members.iter().cloned());
                    let path = |name: &String| {
                        let mut path = parent.clone();
                        path.push(name.clone());
                        path.join("::")
                    };
                    cycles.push(members.iter().map(path).collect());
                }
            }
        }
        cycles
    }
}

/// Returns the nodes that one or more edges lead to from `start`.
fn reachable(graph: &BTreeMap<String, BTreeSet<String>>, start: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![start.to_owned()];
    while let Some(node) = open.pop() {
        for next in graph.get(&node).into_iter().flatten() {
            if found.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    found
}

/// Resolves `path` as seen from `module`. `None` for a path out of the crate.
fn absolute(module: &Module, path: &[String]) -> Option<Module> {
    let (first, mut rest) = path.split_first()?;
    let mut absolute = match first.as_str() {
        "crate" => Module::new(),
        "self" => module.clone(),
        "super" => module.split_last()?.1.to_vec(),
        _ => return None,
    };
    while rest.first().is_some_and(|segment| segment == "super") {
        absolute.pop()?;
        rest = &rest[1..];
    }
    absolute.extend_from_slice(rest);
    Some(absolute)
}

/// Collects the paths in `tokens` that begin with `crate`, `self` or `super`, and the submodules
/// with their inline bodies. Skips what `#[cfg(test)]` applies to.
fn scan(
    tokens: TokenStream,
    paths: &mut Vec<Vec<String>>,
    submodules: &mut Vec<(String, Option<TokenStream>)>,
) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut at = 0;
    let mut is_test = false;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                if let Some(TokenTree::Group(attribute)) = tokens.get(at) {
                    is_test |= attribute.stream().to_string().replace(' ', "") == "cfg(test)";
                    at += 1;
                }
            }
            TokenTree::Ident(word) if *word == "mod" => {
                let Some(TokenTree::Ident(name)) = tokens.get(at) else {
                    continue;
                };
                let body = match tokens.get(at + 1) {
                    Some(TokenTree::Group(body)) => Some(body.stream()),
                    _ => None,
                };
                at += 2;
                if !std::mem::take(&mut is_test) {
                    submodules.push((name.to_string(), body));
                }
            }
            TokenTree::Ident(word) if ["crate", "self", "super"].iter().any(|w| word == w) => {
                let prefix = vec![word.to_string()];
                at += read_path(&tokens[at..], prefix, is_test, paths);
            }
            TokenTree::Group(group) => {
                if !is_test {
                    scan(group.stream(), paths, submodules);
                }
                if group.delimiter() == Delimiter::Brace {
                    is_test = false;
                }
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => is_test = false,
            _ => {}
        }
    }
}

/// Reads `::a::b` or `::{a, b::c}` behind `prefix` and returns the number of tokens read.
fn read_path(
    tokens: &[TokenTree],
    mut prefix: Vec<String>,
    is_test: bool,
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let mut at = 0;
    loop {
        match tokens.get(at..at + 3) {
            Some([TokenTree::Punct(a), TokenTree::Punct(b), next])
                if a.as_char() == ':' && b.as_char() == ':' =>
            {
                match next {
                    TokenTree::Ident(segment) => prefix.push(segment.to_string()),
                    TokenTree::Group(list) => {
                        let list: Vec<_> = list.stream().into_iter().collect();
                        for entry in
                            list.split(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == ','))
                        {
                            if let Some((TokenTree::Ident(first), rest)) = entry.split_first() {
                                let mut path = prefix.clone();
                                // `a::{self}` is `a`.
                                if first != "self" {
                                    path.push(first.to_string());
                                }
                                read_path(rest, path, is_test, paths);
                            }
                        }
                        return at + 3;
                    }
                    // `::*` and `::<`
                    _ => break,
                }
                at += 3;
            }
            _ => break,
        }
    }
    // `self` alone is a receiver, `super::*` in a test module names the parent.
    if prefix.len() > 1 && !is_test {
        paths.push(prefix);
    }
    at
}

/// Returns the `src` folders of all crates of the repository.
fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|folder| folder.join("Cargo.toml").exists())
        .map(|folder| folder.join("src"))
        .collect();
    sources.sort();
    sources
}

#[test]
fn modules_of_every_crate_depend_on_each_other_in_one_direction() {
    let sources = sources();
    assert!(sources.len() > 5, "the crates were not found: {sources:?}");
    let mut found = Vec::new();
    for source in sources {
        for cycle in Crate::read(&source).cycles() {
            found.push(format!("{}: {}", source.display(), cycle.join(" ↔ ")));
        }
    }
    assert!(found.is_empty(), "module cycles:\n{}", found.join("\n"));
}

#[test]
fn a_cycle_is_found_through_a_use_list_an_expression_and_a_macro() {
    let cycles_of = |files: &[(&str, &str)]| {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        Crate::read(folder.path()).cycles()
    };
    let root = ("lib.rs", "mod a; mod b; mod c;");
    let cycle = [
        root,
        ("a.rs", "use crate::{std_like::X, b::{self, B}};"),
        ("b.rs", "fn f() { super::c::g() }"),
        ("c/mod.rs", "mod inner;"),
        ("c/inner.rs", "fn g() { println!(\"{}\", crate::a::A) }"),
    ];
    assert_eq!(cycles_of(&cycle), [["a", "b", "c"]]);
    let straight = [
        root,
        (
            "a.rs",
            "use crate::b::B; #[cfg(test)] mod tests { use crate::c::C; }",
        ),
        (
            "b.rs",
            "#[cfg(test)] use crate::a::A; mod inner { use super::B; } use self::inner::I;",
        ),
        ("c.rs", "use crate::a::A;"),
    ];
    assert_eq!(cycles_of(&straight), Vec::<Vec<String>>::new());
}

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

/// What one module refers to and re-exports.
#[derive(Debug, Default)]
struct References {
    /// Paths that begin with `crate`, `self` or `super`.
    paths: Vec<Vec<String>>,
    /// Names that the module re-exports, with their paths as seen from the module.
    exports: BTreeMap<String, Vec<String>>,
    /// Submodules, with the bodies of the inline ones.
    submodules: Vec<(String, Option<TokenStream>)>,
}

/// The modules of one crate.
#[derive(Debug, Default)]
struct Crate {
    modules: BTreeMap<Module, References>,
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
        let mut references = References::default();
        scan(tokens, &mut references);
        let submodules = std::mem::take(&mut references.submodules);
        self.modules.insert(module.clone(), references);
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
        for (module, content) in &self.modules {
            for path in &content.paths {
                if let Some(target) = self.defining_module(module, path) {
                    references.insert((module.clone(), target));
                }
            }
        }
        references
    }

    /// Returns the module that defines what `path` names as seen from `module`. Follows re-exports.
    fn defining_module(&self, module: &Module, path: &[String]) -> Option<Module> {
        let path = absolute(module, path)?;
        let mut found = Module::new();
        for (at, segment) in path.iter().enumerate() {
            found.push(segment.clone());
            if self.modules.contains_key(&found) {
                continue;
            }
            found.pop();
            // The segment is an item of the module or a name that it re-exports.
            let Some(export) = self.modules[&found].exports.get(segment) else {
                break;
            };
            let mut target = export.clone();
            target.extend_from_slice(&path[at + 1..]);
            return self.defining_module(&found, &target);
        }
        Some(found)
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

/// Collects the paths, re-exports and submodules in `tokens`. Skips what `#[cfg(test)]` applies to.
fn scan(tokens: TokenStream, found: &mut References) {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut at = 0;
    let mut is_test = false;
    let mut is_public = false;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                if let Some(TokenTree::Group(attribute)) = tokens.get(at) {
                    is_test |= attribute.stream().to_string().replace(' ', "") == "cfg(test)";
                    at += 1;
                }
            }
            TokenTree::Ident(word) if *word == "pub" => {
                is_public = true;
                // `pub(crate)`
                if let Some(TokenTree::Group(_)) = tokens.get(at) {
                    at += 1;
                }
                continue;
            }
            TokenTree::Ident(word) if *word == "use" => {
                let end = tokens[at..].iter().position(is_punct(';'));
                let end = end.map_or(tokens.len(), |end| at + end);
                if !is_test {
                    read_use(&tokens[at..end], &[], is_public, found);
                }
                is_test = false;
                at = end + 1;
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
                    found.submodules.push((name.to_string(), body));
                }
            }
            TokenTree::Ident(word) if is_local(&word.to_string()) => {
                let (path, read) = read_path(&tokens[at - 1..]);
                // `self` alone is a receiver.
                if path.len() > 1 && !is_test {
                    found.paths.push(path);
                }
                at += read - 1;
            }
            TokenTree::Group(group) => {
                if !is_test {
                    scan(group.stream(), found);
                }
                if group.delimiter() == Delimiter::Brace {
                    is_test = false;
                }
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => is_test = false,
            _ => {}
        }
        is_public = false;
    }
}

/// Reads the tree of a `use` declaration below `prefix`.
fn read_use(tokens: &[TokenTree], prefix: &[String], is_public: bool, found: &mut References) {
    let (tail, read) = read_path(tokens);
    let mut path = prefix.to_vec();
    // `a::{self}` is `a`.
    path.extend(
        tail.into_iter()
            .filter(|part| prefix.is_empty() || part != "self"),
    );
    if let Some(TokenTree::Group(list)) = tokens[read..]
        .iter()
        .find(|t| matches!(t, TokenTree::Group(_)))
    {
        let list: Vec<_> = list.stream().into_iter().collect();
        for entry in list.split(is_punct(',')).filter(|entry| !entry.is_empty()) {
            read_use(entry, &path, is_public, found);
        }
        return;
    }
    if path.first().is_some_and(|first| is_local(first)) {
        found.paths.push(path.clone());
    } else {
        // From a submodule, or from another crate: that resolves to the module itself.
        path.insert(0, "self".to_owned());
    }
    let name = match tokens.last() {
        Some(TokenTree::Ident(name)) if is_public => name.to_string(),
        _ => return,
    };
    found.exports.insert(name, path);
}

/// Reads `a::b::c` and returns it with the number of tokens read.
fn read_path(tokens: &[TokenTree]) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    let mut at = 0;
    while let Some(TokenTree::Ident(segment)) = tokens.get(at) {
        path.push(segment.to_string());
        at += 1;
        match tokens.get(at..at + 3) {
            Some([a, b, TokenTree::Ident(_)]) if is_punct(':')(a) && is_punct(':')(b) => at += 2,
            _ => break,
        }
    }
    (path, at)
}

/// Returns `true` if a path that begins with `word` is a path in the same crate.
fn is_local(word: &str) -> bool {
    ["crate", "self", "super"].contains(&word)
}

fn is_punct(character: char) -> impl Fn(&TokenTree) -> bool {
    move |token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
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
    let through_a_re_export = [
        ("lib.rs", "mod a; mod b; pub use b::{B as C};"),
        ("a.rs", "use crate::C;"),
        ("b.rs", "use crate::a::A;"),
    ];
    assert_eq!(cycles_of(&through_a_re_export), [["a", "b"]]);
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

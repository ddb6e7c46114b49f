//! Story: the house keeps the shape that `docs/architecture.md` draws.
//!
//! The arrows between crates, no cycles between the modules of a crate, and no file that has outgrown its one idea.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use regex::Regex;
use serde_json::Value;

/// Crate, the crates of ours it may use, and the libraries that must never be in its tree.
const ARROWS: [(&str, &[&str], &[&str]); 8] = [
    (
        "kthena-scheduler",
        &[],
        &["tokio", "kube", "tonic", "rand", "getrandom", "futures"],
    ),
    ("kthena-gateway-api", &[], &["tokio", "tonic"]),
    ("kthena-ext-proc", &["kthena-scheduler"], &["kube"]),
    ("kthena-wasm-filter", &["kthena-scheduler"], &["tokio", "tonic", "kube"]),
    ("kthena-controller", &["kthena-scheduler", "kthena-gateway-api"], &[]),
    ("kthena-simulator", &[], &[]),
    ("kthena-noop-filter", &[], &["tokio"]),
    (
        "kthena-e2e",
        &[
            "kthena-scheduler",
            "kthena-gateway-api",
            "kthena-ext-proc",
            "kthena-wasm-filter",
            "kthena-controller",
            "kthena-simulator",
        ],
        &[],
    ),
];

/// A file above this has more than one idea in it.
const LONGEST_FILE: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn cargo(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(env!("CARGO")).args(args).current_dir(root()).output()?;
    anyhow::ensure!(
        output.status.success(),
        "cargo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn crates_use_each_other_as_the_design_says() -> anyhow::Result<()> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--no-deps", "--offline"])?)?;
    let packages = metadata["packages"].as_array().context("packages")?;
    assert_eq!(packages.len(), ARROWS.len(), "a crate has no row in ARROWS");
    for (name, ours, never) in ARROWS {
        let package = packages.iter().find(|p| p["name"] == name).context(name)?;
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let dependency_name = dependency["name"].as_str().unwrap_or_default();
            if dependency_name.starts_with("kthena-") {
                assert!(ours.contains(&dependency_name), "{name} must not use {dependency_name}");
            }
        }
        let tree = cargo(&["tree", "--offline", "-p", name, "--edges", "normal", "--prefix", "none"])?;
        for line in tree.lines() {
            let library = line.split(' ').next().unwrap_or_default();
            assert!(!never.contains(&library), "{name} must not have {library} in its tree");
        }
    }
    Ok(())
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn crate_folders() -> Vec<PathBuf> {
    [
        "scheduler",
        "gateway-api",
        "ext-proc",
        "wasm-filter",
        "controller",
        "e2e",
        "e2e/simulator",
        "e2e/noop-filter",
    ]
    .map(|name| root().join(name))
    .into()
}

fn is_generated(text: &str) -> bool {
    text.starts_with("// Generated")
}

#[test]
fn no_file_has_outgrown_its_idea() -> anyhow::Result<()> {
    for folder in crate_folders() {
        let mut files = Vec::new();
        sources(&folder.join("src"), &mut files)?;
        assert!(!files.is_empty(), "{} has no sources", folder.display());
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            let lines = text.lines().count();
            assert!(
                is_generated(&text) || lines <= LONGEST_FILE,
                "{} has {lines} lines",
                file.display()
            );
            assert!(
                is_generated(&text) || text.starts_with("//!") || text.starts_with("// SPDX"),
                "{} does not say why it exists",
                file.display()
            );
        }
    }
    Ok(())
}

/// `a::b` of `src/a/b.rs` and of `src/a/b/mod.rs`; empty for the crate's root.
fn module_of(src: &Path, file: &Path) -> String {
    let relative = file.strip_prefix(src).unwrap_or(file).with_extension("");
    let mut parts: Vec<_> = relative
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts.join("::")
}

/// Expands `a::{b::C, d}` into `a::b::C` and `a::d`.
fn expand(path: &str) -> Vec<String> {
    let Some(open) = path.find('{') else {
        return vec![path.trim().to_owned()];
    };
    let (prefix, group) = (path[..open].trim(), path[open + 1..].trim_end().trim_end_matches('}'));
    let (mut depth, mut start, mut all) = (0, 0, Vec::new());
    for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                all.extend(
                    expand(group[start..at].trim())
                        .into_iter()
                        .map(|rest| format!("{prefix}{rest}")),
                );
                start = at + 1;
            }
            _ => {}
        }
    }
    all
}

/// The modules that a file's code refers to. A parent that only re-exports its children does not depend on them.
fn references(text: &str, module: &str, modules: &BTreeSet<String>) -> anyhow::Result<BTreeSet<String>> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let statements = Regex::new(r"(?s)(pub(?:\([a-z]+\))? )?use ([^;]+);")?;
    let inline = Regex::new(r"\b(?:crate|super)(?:::[a-z_0-9]+)+")?;
    let mut paths = Vec::new();
    for found in statements.captures_iter(&code) {
        for path in expand(&found[2].split_whitespace().collect::<Vec<_>>().join(" ")) {
            let local = !path.starts_with("crate") && !path.starts_with("super") && !path.starts_with("self");
            if !(found.get(1).is_some() && local) {
                paths.push(path);
            }
        }
    }
    let rest = statements.replace_all(&code, "");
    paths.extend(inline.find_iter(&rest).map(|found| found.as_str().to_owned()));
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let mut targets = BTreeSet::new();
    for path in paths {
        let absolute = if let Some(rest) = path.strip_prefix("crate::") {
            rest.to_owned()
        } else if let Some(rest) = path.strip_prefix("super::") {
            format!("{parent}::{rest}")
        } else {
            format!("{module}::{}", path.trim_start_matches("self::"))
        };
        let mut at = absolute.trim_start_matches("::").to_owned();
        while !at.is_empty() && !modules.contains(&at) {
            at = at.rsplit_once("::").map_or(String::new(), |(head, _)| head.to_owned());
        }
        if !at.is_empty() && at != module {
            targets.insert(at);
        }
    }
    Ok(targets)
}

fn find_cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit<'g>(
        at: &'g str,
        graph: &'g BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<&'g str>,
        done: &mut BTreeSet<&'g str>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|seen| *seen == at) {
            return Some(path[start..].iter().map(|name| (*name).to_owned()).collect());
        }
        if !done.contains(at) {
            path.push(at);
            for next in graph.get(at).into_iter().flatten() {
                if let Some(cycle) = visit(next, graph, path, done) {
                    return Some(cycle);
                }
            }
            path.pop();
            done.insert(at);
        }
        None
    }
    let mut done = BTreeSet::new();
    graph
        .keys()
        .find_map(|start| visit(start, graph, &mut Vec::new(), &mut done))
}

#[test]
fn modules_of_a_crate_form_no_cycle() -> anyhow::Result<()> {
    for folder in crate_folders() {
        let src = folder.join("src");
        let mut files = Vec::new();
        sources(&src, &mut files)?;
        let modules: BTreeSet<_> = files
            .iter()
            .map(|file| module_of(&src, file))
            .filter(|m| !m.is_empty())
            .collect();
        let mut graph = BTreeMap::new();
        for file in &files {
            let module = module_of(&src, file);
            let text = std::fs::read_to_string(file)?;
            if module.is_empty() || module.ends_with("tests") || is_generated(&text) {
                continue;
            }
            graph.insert(module.clone(), references(&text, &module, &modules)?);
        }
        if let Some(cycle) = find_cycle(&graph) {
            panic!(
                "{}: modules use each other in a circle: {}",
                folder.display(),
                cycle.join(" -> ")
            );
        }
    }
    Ok(())
}

#[test]
fn a_cycle_would_be_found() -> anyhow::Result<()> {
    let modules: BTreeSet<String> = ["a", "a::b", "c"].map(str::to_owned).into();
    let a = references(
        "use crate::{c::{X, Y}, other};\nfn f() { super::c::g() }",
        "a",
        &modules,
    )?;
    assert_eq!(a, BTreeSet::from(["c".to_owned()]));
    let c = references("use crate::a::b::Z;\n// use crate::a;", "c", &modules)?;
    assert_eq!(c, BTreeSet::from(["a::b".to_owned()]));
    let b = references("use super::Q;", "a::b", &modules)?;
    assert_eq!(b, BTreeSet::from(["a".to_owned()]));
    let graph = BTreeMap::from([("a".to_owned(), a), ("a::b".to_owned(), b), ("c".to_owned(), c)]);
    assert_eq!(find_cycle(&graph).map(|cycle| cycle.len()), Some(3));
    Ok(())
}

fn documents(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            documents(&path, found)?;
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn links_between_documents_lead_somewhere() -> anyhow::Result<()> {
    let link = Regex::new(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")?;
    let mut files = Vec::new();
    documents(&root(), &mut files)?;
    let mut links = 0;
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        for found in link.captures_iter(&text).filter(|found| !found[1].contains("://")) {
            let target = file.parent().unwrap_or(&file).join(&found[1]);
            assert!(
                target.exists(),
                "{} links to {}, which is not there",
                file.display(),
                &found[1]
            );
            links += 1;
        }
    }
    assert!(links > 10, "the test has lost sight of the documents");
    Ok(())
}

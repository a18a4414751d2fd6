//! Keeps the module graph, the use of other people's crates, the size of files and their headers honest.
//!
//! It reads text, not syntax: paths that begin with `crate::`, alone or in a group. What would let one name a module in
//! another way (`super` above the top, globs) is refused, too. Inline tests and `tests.rs` files may name what they like.
//! The rules are pure functions over a path and a text; the tests at the end plant an offence against each.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Words that are data alone.
const DATA: &str = "ids report secret units";
/// Words that everyone may use.
const WORDS: &str = "buffers durable ids report retry secret shutdown telemetry tls units";
/// Everything that stands below.
const ALL_BELOW: &str = "*";

/// Every top-level module and the modules that it may name, bottom layer first.
const LAYERS: &[(&str, &[&str])] = &[
    ("buffers", &[]),
    ("durable", &[]),
    ("ids", &[]),
    ("report", &[]),
    ("secret", &[]),
    ("shutdown", &[]),
    ("telemetry", &[]),
    ("units", &[]),
    // Two words speak of others: a retry is decided by an error's code, a certificate names a host.
    ("retry", &["report"]),
    ("tls", &["ids report secret"]),
    // What both edges of Azure stand on.
    ("transport", &[WORDS]),
    ("azure", &[WORDS, "transport"]),
    ("blob", &[WORDS, "transport"]),
    ("formats", &[DATA]),
    // A first copy asks the block allocation tables of a frozen chain for what is allocated.
    ("host", &[WORDS, "formats"]),
    ("hrl", &[DATA]),
    // Documents repeat what the host said: tracking cursors, network adapters.
    ("replica", &[DATA, "host"]),
    ("datapath", &[WORDS, "blob formats host hrl replica"]),
    ("engine", &[WORDS, "blob formats host hrl replica"]),
    // Messages carry inventory, and how often something was tried.
    ("wire", &[DATA, "host retry"]),
    ("agent_client", &[WORDS, "wire"]),
    ("api", &[DATA]),
    ("agent", &[WORDS, "blob engine host replica transport wire"]),
    (
        "controller",
        &[
            WORDS,
            "agent_client api azure blob datapath host replica transport wire",
        ],
    ),
    ("lab", &[ALL_BELOW]),
    ("cli", &[ALL_BELOW]),
];

/// Crates, and the only places in `src` that know them.
const KNOWN_ONLY_TO: &[(&str, &[&str])] = &[
    ("anyhow", &["cli"]),
    (
        "azure_core azure_identity reqwest",
        &["azure", "blob", "transport"],
    ),
    ("k8s_openapi kube", &["api", "cli", "controller", "lab"]),
    ("windows windows_sys", &["host/hyperv"]),
];

/// Modules that know neither an executor nor a network.
const WITHOUT_IO: &str = "api formats hrl ids replica report secret units wire";
const IO: &str = "axum hyper hyper_util reqwest tokio tokio_rustls tokio_util";

/// Lines of a file, with its comments, without its inline tests.
const LINES_MAX: usize = 500;

/// Words of unfinished work. In pieces, because this file is read as well.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
];

#[test]
fn modules_name_only_what_stands_below_them() {
    hold("src", edges);
}

#[test]
fn other_peoples_crates_stay_where_they_belong() {
    hold("src", foreign);
}

#[test]
fn files_are_small_and_say_what_they_are() {
    hold("src", size);
    for folder in ["src", "tests", "benches", "fuzz"] {
        hold(folder, hygiene);
    }
}

#[test]
fn layers_are_listed_bottom_up() {
    for (position, (module, _)) in LAYERS.iter().enumerate() {
        for target in allowed(module) {
            let below = LAYERS[..position].iter().any(|(layer, _)| *layer == target);
            assert!(below, "{module} may not name {target}: it is not below");
        }
    }
}

#[test]
fn every_top_level_module_has_a_layer_and_every_layer_a_module() {
    let library = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared: BTreeSet<&str> = library
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "))
        .map(|name| name.trim_end_matches(';'))
        .collect();
    let layers: BTreeSet<&str> = LAYERS.iter().map(|(module, _)| *module).collect();
    assert_eq!(declared, layers);
}

/// A rule: what is wrong with a file, told by its path from the top and its text.
type Rule = fn(&Path, &str) -> Vec<String>;

/// Applies a rule to all Rust files of a folder.
fn hold(folder: &str, rule: Rule) {
    let mut files = Vec::new();
    collect(&root().join(folder), &mut files);
    let offences: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let path = file.strip_prefix(root()).unwrap();
            let offences = rule(path, &fs::read_to_string(file).unwrap());
            offences
                .into_iter()
                .map(move |offence| format!("{}: {offence}", path.display()))
        })
        .collect();
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Adds the Rust files below a folder; one that does not exist has none.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
}

/// Names of modules that the file's module may not know.
fn edges(path: &Path, text: &str) -> Vec<String> {
    let Some(module) = module_of(path) else {
        return Vec::new();
    };
    if !LAYERS.iter().any(|(layer, _)| *layer == module) {
        return vec![format!("{module} has no layer")];
    }
    let allowed = allowed(&module);
    let code = code_of(path, text);
    let mut offences: Vec<String> = named(&code)
        .into_iter()
        .filter(|target| *target != module && !allowed.contains(target.as_str()))
        .map(|target| format!("{module} names {target}"))
        .collect();
    let above = path.components().count() == 2 && code.contains("super::");
    // A visibility (`pub(in …)`) names nobody.
    let code = code.replace(concat!("(in super::", "super)"), "");
    if above || code.contains(concat!("super::", "super")) {
        offences.push("names what is above by super".to_owned());
    }
    offences
}

/// Names of crates that the file's module may not know.
fn foreign(path: &Path, text: &str) -> Vec<String> {
    let Some(module) = module_of(path) else {
        return Vec::new();
    };
    let code = code_of(path, text);
    let place = path.strip_prefix("src").unwrap().with_extension("");
    let elsewhere = KNOWN_ONLY_TO
        .iter()
        .filter(|(_, places)| !places.iter().any(|known| place.starts_with(known)))
        .flat_map(|(crates, _)| crates.split(' '));
    let io = WITHOUT_IO.split(' ').any(|without| without == module);
    let io = IO.split(' ').filter(|_| io);
    let crates: BTreeSet<&str> = elsewhere.chain(io).collect();
    let offends = |name: &&str| names_crate(&code, name);
    let offending = crates.into_iter().filter(offends);
    offending.map(|name| format!("names {name}")).collect()
}

fn size(path: &Path, text: &str) -> Vec<String> {
    let lines = without_tests(path, text).len();
    let long = (lines > LINES_MAX).then(|| format!("has {lines} lines"));
    long.into_iter().collect()
}

fn hygiene(path: &Path, text: &str) -> Vec<String> {
    let mut offences = Vec::new();
    if !text.starts_with("//!") {
        offences.push("does not open with what it is".to_owned());
    }
    if path.ends_with("mod.rs") {
        offences.push("is a mod.rs".to_owned());
    }
    if code_of(path, text).contains(concat!("::", "*;")) {
        offences.push("takes in everything of a module".to_owned());
    }
    for word in UNFINISHED {
        if text
            .match_indices(word)
            .any(|(at, _)| alone(text, at, word))
        {
            offences.push(format!("says {word}"));
        }
    }
    offences
}

/// The top-level module that a file of `src` belongs to; none for the two crate roots.
fn module_of(path: &Path) -> Option<String> {
    let first = path.strip_prefix("src").ok()?.iter().next()?;
    let name = Path::new(first).file_stem()?.to_str()?;
    let root = name == "lib" || name == "main";
    (!root).then(|| name.to_owned())
}

/// What `module` may name.
fn allowed(module: &str) -> BTreeSet<&'static str> {
    let position = LAYERS.iter().position(|(layer, _)| *layer == module);
    let position = position.expect("the module has a layer");
    let (_, lists) = LAYERS[position];
    if lists == [ALL_BELOW] {
        return LAYERS[..position].iter().map(|(layer, _)| *layer).collect();
    }
    lists.iter().flat_map(|list| list.split(' ')).collect()
}

/// A file's code: without tests and without comment lines.
fn code_of(path: &Path, text: &str) -> String {
    let comment = |line: &&str| line.trim_start().starts_with("//");
    let lines = without_tests(path, text).into_iter();
    let lines = lines.filter(|line| !comment(line));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn without_tests<'a>(path: &Path, text: &'a str) -> Vec<&'a str> {
    let mut kept = Vec::new();
    if path.ends_with("tests.rs") || path.iter().any(|part| part == "tests") {
        return kept;
    }
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let test = line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test,");
        let module = lines.next_if(|next| test && next.starts_with("mod "));
        match module {
            // One with a body ends the file; one with a file of its own is declared at the top.
            Some(module) if module.ends_with('{') => break,
            Some(_) => (),
            None => kept.push(line),
        }
    }
    kept
}

/// All modules that are named from the top.
fn named(code: &str) -> BTreeSet<String> {
    let starts = code.match_indices("crate::");
    let starts = starts.filter(|(at, _)| !code[..*at].ends_with(is_word));
    starts
        .flat_map(|(at, start)| {
            let rest = &code[at + start.len()..];
            match rest.strip_prefix('{') {
                Some(group) => members(group),
                None => vec![first_word(rest)],
            }
        })
        .collect()
}

/// What a group names first in each of its members, up to its end.
fn members(group: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let mut members = vec![first_word(group.trim_start())];
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(first_word(group[at + 1..].trim_start())),
            _ => (),
        }
    }
    members.retain(|member| !member.is_empty());
    members
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|char| is_word(*char)).collect()
}

/// Whether a path begins with the crate's name, or it is taken in as a whole.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        let path = after.starts_with("::") || before.ends_with("use ");
        path && alone(code, at, name) && !before.ends_with("::")
    })
}

/// Whether the word at this place is not part of a longer one.
fn alone(text: &str, at: usize, word: &str) -> bool {
    let end = at + word.len();
    !text[..at].ends_with(is_word) && (word.ends_with('!') || !text[end..].starts_with(is_word))
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// What the rule says about a text at a place.
fn planted(rule: Rule, path: &str, text: &str) -> Vec<String> {
    rule(Path::new(path), text)
}

#[test]
fn an_upward_edge_is_seen_in_every_spelling() {
    for text in [
        "use crate::controller;",
        "use crate::{controller};",
        "use crate::{\n    blob::{Error, names},\n    controller::context::Context,\n};",
        "fn f() -> crate::controller::Context {}",
        "#[cfg(test)]\nmod tests;\nuse crate::controller;",
        "#[cfg(test)]\nfn f() {\n}\nuse crate::controller;",
    ] {
        let said = planted(edges, "src/engine/run.rs", text);
        assert_eq!(said, ["engine names controller"], "{text}");
    }
    let said = planted(edges, "src/controller/vm.rs", "use crate::agent::Agent;");
    assert_eq!(said, ["controller names agent"]);
    let said = planted(edges, "src/agent.rs", "use crate::api;");
    assert_eq!(said, ["agent names api"]);
}

#[test]
fn a_permitted_edge_a_comment_and_a_test_are_not_offences() {
    for text in [
        "use crate::agent_client::Agent;",
        "//! See crate::agent.",
        "    // crate::agent\n",
        "#[cfg(test)]\nmod tests {\n    use crate::agent;\n}",
        "#[cfg(all(test, unix))]\nmod tests {\n    use crate::agent;\n}",
        "use crate::controller::agent::Link;",
        "use crate::wire::{agent, engine};",
    ] {
        let said = planted(edges, "src/controller/vm.rs", text);
        assert!(said.is_empty(), "{text}: {said:?}");
    }
    let said = planted(edges, "src/controller/vm/tests.rs", "use crate::agent;");
    assert!(said.is_empty());
}

#[test]
fn an_unknown_module_and_a_way_around_the_rule_are_seen() {
    let said = planted(edges, "src/novel.rs", "");
    assert_eq!(said, ["novel has no layer"]);
    let said = planted(edges, "src/engine.rs", "use crate::novel;");
    assert_eq!(said, ["engine names novel"]);
    let around = ["names what is above by super"];
    let twice = concat!("use super::", "super::controller;");
    assert_eq!(planted(edges, "src/engine/run.rs", twice), around);
    let top = "use super::controller;";
    assert_eq!(planted(edges, "src/engine.rs", top), around);
    for text in [
        "use super::Phase;",
        concat!("pub(in super::", "super) fn f() {}"),
    ] {
        assert!(planted(edges, "src/engine/run.rs", text).is_empty());
    }
}

#[test]
fn a_crate_out_of_its_place_is_seen() {
    let said = |path, text| planted(foreign, path, text);
    assert_eq!(said("src/engine.rs", "use kube::Api;"), ["names kube"]);
    assert_eq!(said("src/agent.rs", "use reqwest;"), ["names reqwest"]);
    let main = "#[tokio::main]\nasync fn f() {}";
    assert_eq!(said("src/formats/vhd.rs", main), ["names tokio"]);
    let windows = "use windows::core::HSTRING;";
    assert_eq!(said("src/host/lab.rs", windows), ["names windows"]);
    assert!(said("src/host/hyperv/wmi.rs", windows).is_empty());
    assert!(said("src/lab.rs", "use kube::Api;\nuse crate::lab::reqwest::X;").is_empty());
    assert!(said("src/engine.rs", "let kube_name = my_kube::f();").is_empty());
}

#[test]
fn a_file_that_is_long_or_untidy_is_seen() {
    let long = "fn f() {}\n".repeat(501);
    assert_eq!(planted(size, "src/units.rs", &long), ["has 501 lines"]);
    assert!(planted(size, "src/units/tests.rs", &long).is_empty());
    let tested = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
    assert!(planted(size, "src/units.rs", &tested).is_empty());
    let said = |path, text: &str| planted(hygiene, path, text);
    let headless = ["does not open with what it is"];
    assert_eq!(said("src/units.rs", "use std::fs;"), headless);
    assert_eq!(said("src/units/mod.rs", "//! Units."), ["is a mod.rs"]);
    let glob = concat!("//! Units.\nuse crate::ids::", "*;");
    let everything = ["takes in everything of a module"];
    assert_eq!(said("src/units.rs", glob), everything);
    for word in UNFINISHED {
        let text = format!("//! Units.\n// {word}\n");
        assert_eq!(said("src/units.rs", &text), [format!("says {word}")]);
    }
    let inside_another = concat!("//! Units of XX", "XL.");
    assert!(said("src/units.rs", inside_another).is_empty());
}

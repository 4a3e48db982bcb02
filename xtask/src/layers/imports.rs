//! What each file of a crate imports from which other, read off its source: every path that begins with `crate`, `self` or
//! `super`, followed through re-exports to the file that defines what is named. What stands under `#[cfg(test)]` is left out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use xdp_lb_tests::paths::workspace;

/// One file takes a name from another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Import {
    /// The file that imports, from the crate's `src`.
    pub from: String,
    /// The file that defines what is imported.
    pub to: String,
    path: String,
}

impl Import {
    pub fn planted(from: &str, to: &str) -> Self {
        Self { from: from.into(), to: to.into(), path: "planted".into() }
    }
}

/// `config/load.rs imports crate::api::types::Origin, which is in api/types.rs`
impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} imports {}, which is in {}", self.from, self.path, self.to)
    }
}

/// The imports among the files of a crate of the workspace, without those of a file from itself.
///
/// # Errors
/// Where a file cannot be read, or is not Rust.
pub fn of_crate(name: &str) -> Result<Vec<Import>> {
    let source = workspace().join(name).join("src");
    let mut modules = Modules::default();
    for root in ["lib.rs", "main.rs"] {
        if source.join(root).exists() {
            modules.read(&source, Path::new(root), Vec::new())?;
        }
    }
    Ok(modules.imports())
}

/// The path of a module or an item from the crate's root.
type Names = Vec<String>;

#[derive(Default)]
struct Module {
    file: String,
    /// The names that are defined in it.
    defined: BTreeSet<String>,
    /// What `use` makes of a name.
    uses: BTreeMap<String, Names>,
    /// The modules of which it takes all names.
    globs: Vec<Names>,
    /// Every path that is written in it, from the crate's root.
    paths: BTreeSet<Names>,
}

#[derive(Default)]
struct Modules(HashMap<Names, Module>);

impl Modules {
    /// Reads a file and the files of its modules.
    fn read(&mut self, source: &Path, file: &Path, name: Names) -> Result<()> {
        let path = source.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let tokens = TokenStream::from_str(&text)
            .map_err(|error| anyhow!("{} is not Rust: {error}", path.display()))?;
        let children = match file.file_stem().and_then(|stem| stem.to_str()) {
            Some("lib" | "main" | "mod") => file.parent().map(Path::to_path_buf).unwrap_or_default(),
            _ => file.with_extension(""),
        };
        self.take(source, &file.display().to_string(), &children, name, tokens)
    }

    /// Takes in a module's items; the files of its modules lie in `children`.
    fn take(
        &mut self,
        source: &Path,
        file: &str,
        children: &Path,
        name: Names,
        tokens: TokenStream,
    ) -> Result<()> {
        let mut module = Module { file: file.into(), ..Module::default() };
        for item in items(tokens) {
            let words = words(&item);
            match (words.first().map(String::as_str), words.get(1)) {
                (Some("use"), _) => {
                    let is_public = is_word(&item[0], "pub");
                    let tree: Vec<TokenTree> =
                        item.into_iter().skip_while(|it| !is_word(it, "use")).skip(1).collect();
                    let mut taken = Module::default();
                    taken.take_use(&name, &tree, &[]);
                    // What a module only hands on it does not import.
                    if !is_public {
                        module.paths.extend(taken.uses.values().chain(&taken.globs).cloned());
                    }
                    module.uses.append(&mut taken.uses);
                    module.globs.append(&mut taken.globs);
                }
                (Some("mod"), Some(inner)) => {
                    let path = [&name[..], std::slice::from_ref(inner)].concat();
                    let below = children.join(inner);
                    if let Some(TokenTree::Group(items)) = item.last() {
                        self.take(source, file, &below, path, items.stream())?;
                        continue;
                    }
                    let places = [below.with_extension("rs"), below.join("mod.rs")];
                    let found = places.iter().find(|it| source.join(it).exists());
                    let found = found.with_context(|| format!("{file}: module {inner} has no file"))?;
                    self.read(source, found, path)?;
                }
                _ => {
                    module.defined.extend(defined(&item));
                    // A macro may define what it is given.
                    if let (Some(TokenTree::Group(given)), None) = (item.last(), defined(&item)) {
                        module.defined.extend(items(given.stream()).filter_map(|item| defined(&item)));
                    }
                    module.take_paths(&name, item);
                }
            }
        }
        // A library and a program may share the crate's root.
        let known = self.0.entry(name).or_insert_with(|| Module { file: file.into(), ..Module::default() });
        known.defined.extend(module.defined);
        known.uses.extend(module.uses);
        known.globs.extend(module.globs);
        known.paths.extend(module.paths);
        Ok(())
    }

    fn imports(&self) -> Vec<Import> {
        let mut imports = BTreeSet::new();
        for module in self.0.values() {
            for names in &module.paths {
                let Some(to) = self.file_of(names, 0).filter(|to| *to != module.file) else { continue };
                let path = format!("crate::{}", names.join("::"));
                imports.insert(Import { from: module.file.clone(), to: to.into(), path });
            }
        }
        imports.into_iter().collect()
    }

    /// The file that defines what a path names; `None` where the path leaves the crate.
    fn file_of(&self, names: &[String], depth: usize) -> Option<&str> {
        const DEEPEST: usize = 16;
        let mut at = 0;
        while at < names.len() && self.0.contains_key(&names[..=at]) {
            at += 1;
        }
        let module = self.0.get(&names[..at])?;
        let Some(name) = names.get(at) else { return Some(&module.file) };
        if module.defined.contains(name) || depth == DEEPEST {
            return Some(&module.file);
        }
        let onwards = |target: &Names| [&target[..], &names[at + 1..]].concat();
        if let Some(target) = module.uses.get(name) {
            return self.file_of(&onwards(target), depth + 1);
        }
        let globbed = module.globs.iter().find_map(|glob| {
            let mut target = glob.clone();
            target.push(name.clone());
            self.0.get(glob)?.defined.contains(name).then(|| self.file_of(&onwards(&target), depth + 1))
        });
        globbed.unwrap_or(Some(&module.file))
    }
}

impl Module {
    /// Takes in what a `use` names: its tokens behind the path `before`.
    fn take_use(&mut self, module: &Names, tree: &[TokenTree], before: &[String]) {
        let mut path = before.to_vec();
        let mut tokens = tree.iter();
        for token in tokens.by_ref() {
            match token {
                TokenTree::Group(group) => {
                    let trees: Vec<TokenTree> = group.stream().into_iter().collect();
                    trees.split(|it| is_punct(it, ',')).for_each(|tree| self.take_use(module, tree, &path));
                    return;
                }
                TokenTree::Punct(star) if star.as_char() == '*' => {
                    self.globs.push(from_here(module, &path));
                    return;
                }
                TokenTree::Ident(name) if name == "as" => break,
                TokenTree::Ident(name) if name == "self" && !path.is_empty() => {}
                TokenTree::Ident(name) => path.push(name.to_string()),
                _ => {}
            }
        }
        let alias = tokens.next().and_then(word).or_else(|| path.last().cloned());
        if let Some(alias) = alias {
            self.uses.insert(alias, from_here(module, &path));
        }
    }

    /// Takes the paths that are written in an item.
    fn take_paths(&mut self, module: &Names, tokens: impl IntoIterator<Item = TokenTree>) {
        let mut path: Names = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match &token {
                TokenTree::Punct(colon) if colon.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(name) if colons == 2 => path.push(name.to_string()),
                TokenTree::Ident(name) => {
                    self.paths.extend(absolute(module, &path));
                    path = vec![name.to_string()];
                }
                other => {
                    self.paths.extend(absolute(module, &path));
                    path.clear();
                    if let TokenTree::Group(group) = other {
                        items(group.stream()).for_each(|item| self.take_paths(module, item));
                    }
                }
            }
            colons = 0;
        }
        self.paths.extend(absolute(module, &path));
    }
}

/// A path of a `use`, from the crate's root: it may name a module of this one without `self`.
fn from_here(module: &Names, path: &[String]) -> Names {
    absolute(module, path).unwrap_or_else(|| [&module[..], path].concat())
}

/// A path from the crate's root; `None` where it begins elsewhere.
fn absolute(module: &Names, path: &[String]) -> Option<Names> {
    let mut from = module.clone();
    let mut rest = path;
    match path.first().map(String::as_str)? {
        "crate" => {
            from.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|it| it == "super") {
                from.pop()?;
                rest = &rest[1..];
            }
        }
        _ => return None,
    }
    from.extend_from_slice(rest);
    Some(from)
}

/// The words that an item begins with, from the one that tells what it is.
fn words(item: &[TokenTree]) -> Vec<String> {
    let is_qualifier =
        |word: &String| matches!(word.as_str(), "pub" | "unsafe" | "async" | "extern" | "const");
    let words: Vec<String> = item.iter().map_while(word).collect();
    let first = words.iter().position(|word| !is_qualifier(word)).unwrap_or(words.len());
    // `const NAME`, unlike `const fn`.
    let is_const = first > 0 && words[first - 1] == "const" && words.get(first).is_none_or(|it| it != "fn");
    words[first - usize::from(is_const)..].to_vec()
}

/// The name that an item defines in its module.
fn defined(item: &[TokenTree]) -> Option<String> {
    let words = words(item);
    let defines = ["fn", "struct", "enum", "trait", "type", "const", "static", "union"];
    defines.contains(&words.first()?.as_str()).then(|| words.get(1).cloned())?
}

/// The items among these tokens, without attributes, visibility and what stands under `#[cfg(test)]`: each ends with its braces,
/// or with a semicolon.
fn items(tokens: TokenStream) -> impl Iterator<Item = Vec<TokenTree>> {
    let mut tokens = tokens.into_iter().peekable();
    let next = move || {
        let (mut item, mut is_of_tests) = (Vec::new(), false);
        while let Some(token) = tokens.next() {
            if is_punct(&token, '#') {
                tokens.next_if(|it| is_punct(it, '!'));
                let attribute = tokens.next().map(|it| it.to_string()).unwrap_or_default();
                let text: String = attribute.split_whitespace().collect();
                is_of_tests |= text.starts_with("[cfg(test") || text.starts_with("[cfg(all(test");
                continue;
            }
            let is_visibility = item.last().is_some_and(|it| is_word(it, "pub"));
            let is_scope = matches!(&token, TokenTree::Group(it) if it.delimiter() == Delimiter::Parenthesis);
            if is_visibility && is_scope {
                continue;
            }
            let is_value = item.iter().any(|it| is_word(it, "use") || is_punct(it, '='));
            let ends = match &token {
                TokenTree::Group(group) => group.delimiter() == Delimiter::Brace && !is_value,
                token => is_punct(token, ';'),
            };
            item.push(token);
            if ends && !std::mem::take(&mut is_of_tests) {
                return Some(item);
            }
            if ends {
                item.clear();
            }
        }
        (!item.is_empty() && !is_of_tests).then_some(item)
    };
    std::iter::from_fn(next)
}

fn word(token: &TokenTree) -> Option<String> {
    match token {
        TokenTree::Ident(name) => Some(name.to_string()),
        _ => None,
    }
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(name) if name == word)
}

fn is_punct(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

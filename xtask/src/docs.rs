//! The Markdown pages of the repository: every link leads somewhere, and every page under docs lists its sections.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use xdp_lb_tests::paths;

/// The folders whose pages are looked at, beside those at the root.
const FOLDERS: [&str; 4] = ["docs", "docs/configuration", "docs/decisions", "examples"];

/// A page, read line by line.
struct Page {
    /// From the repository's root on, as in `docs/cli.md`.
    path: PathBuf,
    text: String,
}

struct Heading {
    /// 1 for the page's title.
    depth: usize,
    title: String,
    /// What links call it on GitHub: the second heading of one title ends with `-1`.
    anchor: String,
}

impl Page {
    /// Every page of the repository, in order of its path.
    fn all() -> Vec<Self> {
        let root = paths::workspace();
        let folders = std::iter::once("").chain(FOLDERS);
        let entries = folders.flat_map(|folder| fs::read_dir(root.join(folder)).expect("a folder"));
        let mut pages: Vec<PathBuf> = entries
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|it| it == "md"))
            .collect();
        pages.sort();
        let page = |path: PathBuf| Self {
            text: fs::read_to_string(&path).expect("text"),
            path: path.strip_prefix(root).expect("below the root").to_owned(),
        };
        pages.into_iter().map(page).collect()
    }

    fn planted(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// The page without what stands between fences, where `#` and brackets mean something else.
    fn prose(&self) -> String {
        let mut inside = false;
        let mut outside = |line: &&str| {
            let is_fence = line.trim_start().starts_with("```");
            inside ^= is_fence;
            !inside && !is_fence
        };
        self.text.lines().filter(|line| outside(line)).collect::<Vec<_>>().join("\n")
    }

    /// The headings in order.
    fn headings(&self) -> Vec<Heading> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut heading = |line: &str| {
            let depth = line.bytes().take_while(|byte| *byte == b'#').count();
            let title = line[depth..].strip_prefix(' ').filter(|_| depth > 0)?.trim();
            let anchor = anchor(title);
            let times = seen.entry(anchor.clone()).and_modify(|times| *times += 1).or_default();
            let anchor = if *times == 0 { anchor } else { format!("{anchor}-{times}") };
            Some(Heading { depth, title: title.to_owned(), anchor })
        };
        self.prose().lines().filter_map(&mut heading).collect()
    }

    /// What the page links to: the text between `](` and `)`.
    fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let targets = prose.split("](").skip(1);
        targets.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
    }
}

/// What GitHub makes of a heading: lower case, without punctuation, and a hyphen for each blank.
fn anchor(title: &str) -> String {
    let kept = title.to_lowercase();
    let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || "-_ ".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

/// `docs/configuration/../cli.md` as `docs/cli.md`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            part => normal.push(part),
        }
    }
    normal
}

/// The links of these pages that lead nowhere, each with its page.
fn broken_links(pages: &[Page], exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let anchors = |page: &Page| page.headings().into_iter().map(|heading| heading.anchor).collect();
    let anchors: BTreeMap<&Path, BTreeSet<String>> =
        pages.iter().map(|page| (page.path.as_path(), anchors(page))).collect();
    let leads_somewhere = |page: &Page, link: &str| {
        if link.contains("://") {
            return true;
        }
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let target = match file {
            "" => page.path.clone(),
            file => normal(&page.path.parent().expect("a folder").join(file)),
        };
        exists(&target)
            && (anchor.is_empty() || anchors.get(&*target).is_some_and(|all| all.contains(anchor)))
    };
    let broken = pages.iter().flat_map(|page| {
        let links = page.links().into_iter().filter(|link| !leads_somewhere(page, link));
        links.map(|link| format!("{}: {link}", page.path.display()))
    });
    broken.collect()
}

/// The contents list that a page should have: its sections of depth 2, if it has more than one.
fn contents(page: &Page) -> String {
    let sections = page.headings().into_iter().filter(|heading| heading.depth == 2);
    let lines: Vec<String> =
        sections.map(|Heading { title, anchor, .. }| format!("- [{title}](#{anchor})")).collect();
    if lines.len() > 1 { lines.join("\n") } else { String::new() }
}

#[test]
fn every_link_of_a_page_leads_to_a_file_or_a_heading() {
    let root = paths::workspace();
    let broken = broken_links(&Page::all(), |path| root.join(path).exists());
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn every_page_under_docs_begins_with_a_list_of_its_sections() {
    let short = Path::new("docs/decisions");
    let pages = Page::all();
    for page in pages.iter().filter(|page| page.path.starts_with("docs") && !page.path.starts_with(short)) {
        let begins = page.text.split("\n## ").next().expect("a beginning");
        let contents = contents(page);
        assert!(
            begins.contains(&contents),
            "{} needs before its first section:\n{contents}",
            page.path.display()
        );
    }
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let text = "# A page\n\n## One `[key]`\n## Two\n## Two\n\n```\n## No heading\n[no](#link)\n```\n\
                [a](#one-key) [b](#two-1) [c](b/c.md#there) [d](../a.md) [e](https://example.com/#x) [f](b)\n\
                [g](#no-heading) [h](#two-2) [i](b/c.md#gone) [j](gone.md)\n";
    let pages =
        [Page::planted("docs/a.md", text), Page::planted("docs/b/c.md", "# There\n[k](../a.md#two)\n")];
    let files = ["docs/a.md", "docs/b/c.md", "docs/b", "a.md"].map(PathBuf::from);
    let broken = broken_links(&pages, |path| files.iter().any(|file| file == path));
    assert_eq!(
        broken,
        ["#no-heading", "#two-2", "b/c.md#gone", "gone.md"].map(|link| format!("docs/a.md: {link}"))
    );
    assert_eq!(contents(&pages[0]), "- [One `[key]`](#one-key)\n- [Two](#two)\n- [Two](#two-1)");
}

//! The Markdown pages of the repository: every link leads somewhere, and every page under docs lists its sections.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use xdp_lb_tests::paths;

/// The folders whose pages are looked at, beside those at the root.
const FOLDERS: [&str; 5] = ["docs", "docs/configuration", "docs/decisions", "docs/guide", "examples"];

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

/// The longest line of a page, in characters, and the longest sentence, in words.
const LONGEST: (usize, usize) = (300, 35);

/// The sentences of a page: of its paragraphs, items and cells.
fn sentences(page: &Page) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in page.prose().lines().map(str::trim) {
        let begins = line.is_empty()
            || line.starts_with(['#', '-', '*', '|'])
            || line.starts_with(|it: char| it.is_ascii_digit());
        if begins {
            parts.push(String::new());
        }
        match line.strip_prefix('|') {
            Some(cells) => parts.extend(cells.split('|').map(str::to_owned)),
            None => {
                let part = parts.last_mut().expect("there is one");
                part.push_str(line);
                part.push(' ');
            }
        }
    }
    let ends = [". ", "! ", "? "];
    let split = |part: String| -> Vec<String> {
        let marked = ends.iter().fold(part, |part, end| part.replace(end, &format!("{}\n", end.trim())));
        marked.lines().map(str::to_owned).collect()
    };
    parts.into_iter().flat_map(split).collect()
}

/// How many words a sentence has; what stands in backquotes is one.
fn words(sentence: &str) -> usize {
    let prose = sentence.split('`').enumerate().map(|(place, part)| if place % 2 == 0 { part } else { "it" });
    let prose: String = prose.collect();
    prose.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count()
}

#[test]
fn no_line_and_no_sentence_of_a_page_is_too_long() {
    let (line, sentence) = LONGEST;
    let mut long = Vec::new();
    for page in Page::all() {
        let path = page.path.display();
        let lines = (1..).zip(page.text.lines()).filter(|(_, it)| it.chars().count() > line);
        long.extend(
            lines.map(|(number, _)| format!("{path}:{number}: a line of more than {line} characters")),
        );
        let sentences = sentences(&page).into_iter().filter(|it| words(it) > sentence);
        long.extend(sentences.map(|it| format!("{path}: a sentence of more than {sentence} words: {it}")));
    }
    assert!(long.is_empty(), "split these:\n{}", long.join("\n"));
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

#[test]
fn a_sentence_is_of_one_paragraph_item_or_cell_and_its_words_are_counted() {
    let text = "# A title\n\nOne. Two `a b c`\nwords? Three\n- four five\n| six | seven. eight nine |\n```\nnot. this\n```\n";
    let counts: Vec<usize> =
        sentences(&Page::planted("docs/a.md", text)).iter().map(|it| words(it)).collect();
    let counts: Vec<usize> = counts.into_iter().filter(|count| *count > 0).collect();
    assert_eq!(counts, [2, 1, 3, 1, 2, 1, 1, 2]);
}

//! Words that people in this field do not use, with what to write instead: held against the strings, the comments and the
//! docs of the repository.

use std::fs;
use std::path::{Path, PathBuf};

use xdp_lb_tests::paths;

/// What must not be written, in lower case, and what to write instead. A blank stands for any blanks and line ends, also
/// those between the lines of a comment or a string.
const FORBIDDEN: &[(&str, &str)] = &[
    ("likewise", "say it"),
    ("is no", "is not a"),
    ("of late", "recently"),
    ("mend", "fix"),
    ("mends", "fixes"),
    ("mended", "fixed"),
    ("well again", "recovered"),
    ("begun flows", "total flows"),
    ("flows begun", "total flows"),
    ("is still out", "is pending"),
    ("just so", "exactly like this"),
    ("somebody else's affair", "not managed by the daemon"),
    ("comings and goings", "as they come and go"),
    ("clients straight", "directly to clients"),
    ("spares the weak", "protects struggling backends"),
    ("the house as built", "architecture"),
    ("went as told", "worked as described"),
    ("left to the host", "passed to the host"),
    ("cramped", "what it is"),
];

/// What is good English although it contains something forbidden.
const GOOD: &[&str] = &["there is no", "is no longer", "is no more"];

/// Files that may write what is forbidden, and why. This one has the list.
const EXCEPTIONS: &[&str] = &["xtask/src/words.rs"];

/// What is not ours, or is not text.
const SKIPPED: &[&str] = &["target", ".git", "corpus", "Cargo.lock"];

/// The texts of the repository, from its root on.
fn texts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if SKIPPED.contains(&name) {
            continue;
        }
        if path.is_dir() {
            texts(&path, found);
        } else if [".rs", ".md", ".toml", ".service", ".json", ".svg"].iter().any(|kind| name.ends_with(kind))
        {
            found.push(path);
        }
    }
}

/// A text as its words, in lower case, with the line on which each begins. What marks a comment, and what continues a string,
/// is left out.
fn words(text: &str) -> Vec<(usize, String)> {
    let of_line = |(number, line): (usize, &str)| -> Vec<(usize, String)> {
        let line = line.trim().trim_start_matches(['/', '!', '#', '*', '-']).trim_end_matches('\\');
        let parts = line.split(|letter: char| letter.is_whitespace() || "\"()[]{}".contains(letter));
        parts.filter(|part| !part.is_empty()).map(|word| (number, word.to_lowercase())).collect()
    };
    (1..).zip(text.lines()).flat_map(of_line).collect()
}

/// Whether a word is this one, whatever punctuation is around it.
fn is(word: &str, wanted: &str) -> bool {
    word.trim_matches(|letter: char| !letter.is_alphanumeric()) == wanted
}

/// What is forbidden in a text: line, what is written, and what to write instead.
fn forbidden(text: &str) -> Vec<String> {
    let words = words(text);
    let stands = |phrase: &str, at: usize| {
        phrase
            .split(' ')
            .enumerate()
            .all(|(place, wanted)| words.get(at + place).is_some_and(|(_, word)| is(word, wanted)))
    };
    let is_good = |at: usize| {
        GOOD.iter()
            .any(|good| (0..good.split(' ').count()).any(|before| at >= before && stands(good, at - before)))
    };
    let mut found = Vec::new();
    for (at, (line, _)) in words.iter().enumerate() {
        let here = FORBIDDEN.iter().filter(|(phrase, _)| stands(phrase, at) && !is_good(at));
        found.extend(here.map(|(phrase, instead)| format!("{line}: {phrase:?}; write {instead:?}")));
    }
    found
}

#[test]
fn no_text_of_the_repository_has_a_word_that_the_field_does_not_use() {
    let root = paths::workspace();
    let mut files = Vec::new();
    texts(root, &mut files);
    assert!(files.len() > 300, "{} texts are looked at", files.len());
    let mut found = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).expect("below the root");
        if EXCEPTIONS.iter().any(|exception| name == Path::new(exception)) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("text");
        found.extend(forbidden(&text).into_iter().map(|what| format!("{}:{what}", name.display())));
    }
    assert!(found.is_empty(), "words that the field does not use:\n{}", found.join("\n"));
}

#[test]
fn a_forbidden_word_is_found_over_lines_and_good_english_is_left_alone() {
    let text = "// A plan is\n// no change.\nlet words = \"Likewise: the check is \\\n    still out\";\n//! It was mended, of\n//! late.\n";
    let lines: Vec<String> =
        forbidden(text).iter().map(|what| what.split(';').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(
        lines,
        ["1: \"is no\"", "3: \"likewise\"", "3: \"is still out\"", "5: \"mended\"", "5: \"of late\""]
    );
    assert_eq!(
        forbidden("there is no room, and it is\nno longer needed; recommended, amend"),
        Vec::<String>::new()
    );
}

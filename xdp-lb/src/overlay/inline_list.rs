//! Lists that are written as one value, `[a, b]`: items are added and removed, and the comments and line breaks of the others stay.

use serde_json::Value;
use toml_edit::{Array, Decor, InlineTable, RawString, Value as Item};

/// Removes items, each with the comment after it on its line.
pub(super) fn retain(list: &mut Array, keep: impl Fn(&Item) -> bool) {
    for index in (0..list.len()).rev() {
        if list.get(index).is_some_and(|item| !keep(item)) {
            remove(list, index);
        }
    }
}

fn remove(list: &mut Array, index: usize) {
    let before = prefix(list, index);
    let is_last = index + 1 == list.len();
    let behind = if is_last { tail(list) } else { prefix(list, index + 1) };
    list.remove(index);
    // A comment on the line of the previous item belongs to that one.
    let (of_previous, _) = at_line_break(&before);
    let joined = match at_line_break(&behind) {
        (_, "") if is_last && of_previous.contains('#') => format!("{of_previous}\n"),
        (_, "") if is_last => String::new(),
        (_, "") => before,
        (_, lines) => format!("{of_previous}{lines}"),
    };
    match list.get_mut(index) {
        Some(next) => next.decor_mut().set_prefix(joined),
        None => set_tail(list, &joined),
    }
}

/// Appends an item, on its own line if the others are.
pub(super) fn push(list: &mut Array, mut item: Item) {
    let Some(last) = list.len().checked_sub(1) else {
        list.push(item);
        return;
    };
    let tail = tail(list);
    let (of_last, lines) = at_line_break(&tail);
    let before = prefix(list, last);
    let indent = match before.rfind('\n') {
        Some(start) => &before[start..],
        None if of_last.contains('#') => "\n    ",
        None => " ",
    };
    set_tail(list, "");
    *item.decor_mut() = Decor::new(format!("{}{indent}", if indent == " " { "" } else { of_last }), "");
    list.push_formatted(item);
    set_tail(list, if indent == " " { &tail } else { lines });
}

/// Sets the items of the list; those that it already has keep their positions.
pub(super) fn set(list: &mut Array, wanted: &[Value]) {
    retain(list, |item| wanted.iter().any(|it| is(item, it)));
    for missing in wanted.iter().filter(|it| !list.iter().any(|item| is(item, it))).collect::<Vec<_>>() {
        push(list, value_of(missing));
    }
    let is_as_wanted = list.len() == wanted.len() && list.iter().zip(wanted).all(|(item, it)| is(item, it));
    if !is_as_wanted {
        list.clear();
        list.extend(wanted.iter().map(value_of));
    }
}

fn is(item: &Item, wanted: &Value) -> bool {
    wanted.as_str().is_some_and(|text| item.as_str() == Some(text))
}

/// A JSON value in TOML.
pub(super) fn value_of(value: &Value) -> Item {
    match value {
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => number.into(),
            (None, number) => number.unwrap_or_default().into(),
        },
        Value::String(text) => text.into(),
        Value::Array(list) => Item::Array(list.iter().map(value_of).collect::<Array>()),
        Value::Object(table) => {
            let table = table.iter().map(|(key, value)| (key.as_str(), value_of(value)));
            Item::InlineTable(table.collect::<InlineTable>())
        }
        Value::Null => "".into(),
    }
}

/// The text up to its first line break, and the rest.
fn at_line_break(text: &str) -> (&str, &str) {
    text.split_at(text.find('\n').unwrap_or(text.len()))
}

fn prefix(list: &Array, index: usize) -> String {
    let decor = list.get(index).map(Item::decor);
    written(decor.and_then(Decor::prefix)).unwrap_or_else(|| if index == 0 { "" } else { " " }.into())
}

/// What follows the last item.
fn tail(list: &Array) -> String {
    let suffix = list.iter().last().and_then(|last| written(last.decor().suffix()));
    suffix.unwrap_or_default() + &written(Some(list.trailing())).unwrap_or_default()
}

fn set_tail(list: &mut Array, tail: &str) {
    if let Some(last) = list.iter_mut().last() {
        last.decor_mut().set_suffix("");
    }
    list.set_trailing(tail);
}

fn written(text: Option<&RawString>) -> Option<String> {
    text.and_then(RawString::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use toml_edit::DocumentMut;

    use super::*;

    const LONG: &str =
        "x = [ # all of them\n  # the old one\n  \"a\", # slow\n  \"b\", # new\n  \"c\" # last\n]\n";

    /// A document with a list `x`, after a change to that.
    fn after(document: &str, change: impl Fn(&mut Array)) -> String {
        let mut document: DocumentMut = document.parse().expect("TOML");
        change(document["x"].as_array_mut().expect("a list"));
        let text = document.to_string();
        assert!(text.parse::<DocumentMut>().is_ok(), "{text}");
        text
    }

    #[test]
    fn an_item_goes_with_its_comment_and_the_others_keep_theirs() {
        for (gone, left) in [
            ("a", "x = [ # all of them\n  \"b\", # new\n  \"c\" # last\n]\n"),
            ("b", "x = [ # all of them\n  # the old one\n  \"a\", # slow\n  \"c\" # last\n]\n"),
            ("c", "x = [ # all of them\n  # the old one\n  \"a\", # slow\n  \"b\" # new\n]\n"),
        ] {
            let text = after(LONG, |list| retain(list, |item| item.as_str() != Some(gone)));
            assert_eq!(text, left, "without {gone}");
        }
        let short = |gone| {
            after("x = [\"a\", \"b\"] # both\n", |list| retain(list, |item| item.as_str() != Some(gone)))
        };
        assert_eq!((short("a"), short("b")), ("x = [\"b\"] # both\n".into(), "x = [\"a\"] # both\n".into()));
    }

    #[test]
    fn an_item_is_added_in_the_style_of_the_others() {
        for (list, longer) in [
            ("x = [\"a\", \"b\"] # both\n", "x = [\"a\", \"b\", \"d\"] # both\n"),
            ("x = []\n", "x = [\"d\"]\n"),
            ("x = [ \"a\" ]\n", "x = [ \"a\", \"d\" ]\n"),
            ("x = [\n  \"a\", # slow\n]\n", "x = [\n  \"a\", # slow\n  \"d\",\n]\n"),
            ("x = [\n  \"a\" # slow\n]\n", "x = [\n  \"a\", # slow\n  \"d\"\n]\n"),
        ] {
            assert_eq!(after(list, |list| push(list, "d".into())), longer);
        }
    }

    #[test]
    fn a_list_that_is_set_keeps_what_stays_in_it() {
        let text = after(LONG, |list| set(list, &[json!("a"), json!("c"), json!("d")]));
        assert_eq!(
            text,
            "x = [ # all of them\n  # the old one\n  \"a\", # slow\n  \"c\", # last\n  \"d\"\n]\n"
        );
        let text = after("x = [\"a\", \"b\"]\n", |list| set(list, &[json!("b"), json!("a")]));
        assert_eq!(text, "x = [\"b\", \"a\"]\n");
    }
}

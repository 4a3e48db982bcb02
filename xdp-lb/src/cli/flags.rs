//! The options of a service or a backend as flags: one for each row of [`Options::OPTIONS`], and for each key of some tables.

use std::marker::PhantomData;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args, Command, CommandFactory as _, FromArgMatches};
use serde_json::{Map, Value};

use super::set::plain;
use super::{Cli, set};
use crate::model::place::{Place, Problems};
use crate::model::section::{Node, Section, Table};
use crate::model::table::Key;
use crate::model::text::parse_endpoint;
use crate::model::{self, Options, Quic, Row, check, default_weight, written_discovery};

/// Arguments of a command that are wrong together: an error with the usage of that command.
pub(super) fn wrong(names: &[&str], why: impl std::fmt::Display) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    let mut command = &mut command;
    for name in names {
        command = command.find_subcommand_mut(name).expect("there is such a command");
    }
    command.error(ErrorKind::ValueValidation, why)
}

/// A table whose keys have their own flags, `--PREFIX-KEY`.
struct Keys {
    option: &'static str,
    prefix: &'static str,
    heading: Option<&'static str>,
    keys: &'static [Key],
    /// The flags that select a type, by the key that they set; empty: its `type` has a flag, `--PREFIX`.
    types: &'static [(&'static str, &'static str)],
}

const TABLES: &[Keys] = &[
    Keys { option: "quic", prefix: "quic", heading: None, keys: Quic::TABLE, types: &[] },
    Keys {
        option: "health_check",
        prefix: "check",
        heading: Some("Health check"),
        keys: check::TABLE,
        types: &[],
    },
    Keys {
        option: "discovery",
        prefix: "discover",
        heading: Some("Discovery"),
        keys: written_discovery::TABLE,
        types: &[("name", "dns"), ("path", "file")],
    },
];

/// Options that commands take by position, or with a special flag.
const BY_HAND: &[&str] = &["name", "vip", "address", "backend"];

/// A flag.
struct Flag<T: 'static> {
    /// Without its dashes.
    name: String,
    row: &'static Row<T>,
    /// The key of the row's table that it gives, with the table.
    of: Option<(&'static Keys, &'static Key)>,
    /// Its default, or an empty value of the same type.
    absent: Value,
}

impl<T: Options> Flag<T> {
    /// All flags, in the order of the options.
    fn all() -> impl Iterator<Item = Self> {
        let rows = T::OPTIONS.iter().filter(|row| !BY_HAND.contains(&row.key));
        rows.flat_map(|row| match TABLES.iter().find(|table| table.option == row.key) {
            Some(table) => {
                let keys = table.keys.iter().filter(|key| !key.help.is_empty());
                let is_flag = |key: &&Key| key.name != "type" || table.types.is_empty();
                keys.filter(is_flag).map(|key| Self::of_key(row, table, key)).collect()
            }
            None => vec![Self::of_row(row)],
        })
    }

    fn of_row(row: &'static Row<T>) -> Self {
        let absent = (row.absent)();
        Self { name: in_flags(row.key, &absent), row, of: None, absent }
    }

    fn of_key(row: &'static Row<T>, table: &'static Keys, key: &'static Key) -> Self {
        let absent = (key.absent)();
        let name = match table.types.iter().find(|(of, _)| *of == key.name) {
            Some((_, kind)) => (*kind).to_owned(),
            None if key.name == "type" => String::new(),
            // A flag of what is on by default turns it off.
            None if absent == true => format!("no-{}", in_flags(key.name, &absent)),
            None => in_flags(key.name, &absent),
        };
        let name = format!("{}-{name}", table.prefix);
        Self { name: name.trim_end_matches('-').to_owned(), row, of: Some((table, key)), absent }
    }

    /// The `type` that it selects.
    fn makes(&self) -> Option<&'static str> {
        let (table, key) = self.of?;
        table.types.iter().find(|(of, _)| *of == key.name).map(|(_, kind)| *kind)
    }

    /// Whether it selects the type of its table, which all other keys need.
    fn begins(&self) -> bool {
        self.makes().is_some() || self.of.is_some_and(|(_, key)| key.name == "type")
    }

    fn arg(self) -> Arg {
        let arg = Arg::new(self.name.clone()).long(self.name.clone()).help(self.help());
        let arg = match self.of {
            Some((table, _)) if self.begins() => arg.help_heading(table.heading).group(table.option),
            Some((table @ Keys { heading: Some(_), .. }, _)) => {
                arg.help_heading(table.heading).requires(table.option)
            }
            _ => arg,
        };
        if self.absent.is_boolean() {
            return arg.action(ArgAction::SetTrue);
        }
        let is_list = self.absent.is_array();
        // The words of a program may be its flags.
        let is_word = is_list && self.of.is_some();
        let (row, key) = (self.row, self.of.map(|(_, key)| key.name));
        let read = move |text: &str| match key {
            Some(key) => row.read_key(key, text, vec![text.into()]),
            None => read(row, text),
        };
        arg.action(if is_list { ArgAction::Append } else { ArgAction::Set })
            .allow_hyphen_values(is_word)
            .allow_negative_numbers(self.absent.is_number())
            .value_name(self.value_name())
            .value_parser(read)
    }

    /// The name of its value in usage messages.
    fn value_name(&self) -> String {
        let key = self.of.map_or(self.row.key, |(_, key)| key.name);
        match (self.row.value_name, self.row.keys) {
            _ if self.absent.is_number() => "N".into(),
            (Some(name), _) => name.into(),
            (None, Some(_)) if self.of.is_none() => "KEY=VALUE,...".into(),
            _ => {
                let name = in_flags(key, &self.absent).to_uppercase();
                name.rsplit('-').next().unwrap_or_default().to_owned()
            }
        }
    }

    /// Its purpose, range and default.
    fn help(&self) -> String {
        let repeated = if self.absent.is_array() { "; may be given several times" } else { "" };
        let Some((_, key)) = self.of else {
            let Row { sentence, default, range, help, .. } = self.row;
            let sentence = plain(sentence.trim_end_matches('.'));
            if self.absent.is_boolean() {
                return sentence;
            }
            let (values, default) = (plain(help.unwrap_or(range)), plain(&default.replacen(": ", ", ", 1)));
            return format!("{sentence}: {values}{repeated} [default: {default}]");
        };
        let owners = match key.owners {
            [] => String::new(),
            owners if owners.len() > 3 || self.begins() => String::new(),
            owners => format!("{}: ", owners.join(", ")),
        };
        let help = format!("{owners}{}", key.help);
        match help.split_once(" [default") {
            Some((help, default)) => format!("{help}{repeated} [default{default}"),
            None => help + repeated,
        }
    }

    /// Adds its value.
    fn take(&self, matches: &ArgMatches, given: &mut Map<String, Value>) {
        let values: Vec<Value> = match self.absent.as_bool() {
            Some(absent) => matches.get_flag(&self.name).then_some((!absent).into()).into_iter().collect(),
            None => matches.get_many(&self.name).into_iter().flatten().cloned().collect(),
        };
        let Some(value) = values.into_iter().reduce(joined) else { return };
        let Some((_, key)) = self.of else {
            given.insert(self.row.key.into(), value);
            return;
        };
        let table = given.entry(self.row.key).or_insert_with(|| Map::new().into());
        table[key.name] = value;
        if let Some(kind) = self.makes() {
            table["type"] = kind.into();
        }
    }
}

/// The items of two lists; of two values, the later one.
fn joined(first: Value, second: Value) -> Value {
    match (first, second) {
        (Value::Array(first), Value::Array(second)) => [first, second].concat().into(),
        (_, second) => second,
    }
}

/// A key as flags name it: a flag that is repeated gives one item of a list at a time.
fn in_flags(key: &str, absent: &Value) -> String {
    let one = match absent {
        Value::Array(_) => key.strip_suffix("es").or(key.strip_suffix('s')).unwrap_or(key),
        _ => key,
    };
    one.replace('_', "-")
}

/// Parses the whole value of an option.
fn read<T: Options>(row: &Row<T>, text: &str) -> Result<Value, String> {
    let unnamed =
        |why: String| why.strip_prefix(&format!("{}: ", row.key)).map_or(why.clone(), str::to_owned);
    let value = row.literal(text).map_err(unnamed)?;
    let given = Map::from_iter([(row.key.to_owned(), value.clone())]);
    over(&given, T::example()).map(|_| value).map_err(unnamed)
}

/// A definition with the given options.
fn over<T: Options>(given: &Map<String, Value>, mut base: T) -> Result<T, String> {
    let table: Table = given.iter().map(|(key, value)| (key.clone(), Node::from(value))).collect();
    let keys: Vec<&str> = T::OPTIONS.iter().map(|row| row.key).collect();
    let mut problems = Problems::default();
    let mut section = Section::new(&table, Place::Root, &keys, &mut problems);
    T::OPTIONS
        .iter()
        .filter(|row| given.contains_key(row.key))
        .for_each(|row| (row.read)(&mut section, &mut base));
    problems.into_result().map(|()| base).map_err(|lines| lines.join("\n"))
}

/// Options given as flags.
#[derive(Clone, Debug)]
pub(super) struct Given<T> {
    options: Map<String, Value>,
    of: PhantomData<fn() -> T>,
}

impl<T: Options> Given<T> {
    /// A definition with them.
    ///
    /// # Errors
    /// All that is wrong with them, a line each.
    pub(super) fn over(&self, base: T) -> Result<T, String> {
        over(&self.options, base)
    }
}

impl<T: Options> Args for Given<T> {
    fn augment_args(command: Command) -> Command {
        // At most one of them selects the type.
        let is_begun =
            |table: &&Keys| Flag::<T>::all().any(|flag| flag.begins() && flag.row.key == table.option);
        let groups = TABLES.iter().filter(is_begun);
        let command = command.groups(groups.map(|table| ArgGroup::new(table.option)));
        command.args(Flag::<T>::all().map(Flag::arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: Options> FromArgMatches for Given<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut options = Map::new();
        Flag::<T>::all().for_each(|flag| flag.take(matches, &mut options));
        Ok(Self { options, of: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The name of a backend with its options in usage messages.
pub(super) fn backend_name() -> String {
    let flags = Flag::<model::Backend>::all().filter(|flag| flag.row.key != "weight");
    let option = |flag: Flag<model::Backend>| match flag.absent.is_boolean() {
        true => format!("[,{}]", flag.name),
        false => format!("[,{}={}]", flag.name, flag.value_name()),
    };
    flags.map(option).fold("ADDR:PORT[=WEIGHT]".into(), |name, option| name + &option)
}

/// Parses `ADDR:PORT[=WEIGHT][,KEY=VALUE...]`; a boolean needs no value.
pub(super) fn parse_backend(text: &str) -> Result<model::Backend, String> {
    let mut parts = text.split(',');
    let first = parts.next().unwrap_or_default();
    let (address, weight) =
        first.split_once('=').map_or((first, None), |(address, weight)| (address, Some(weight)));
    let whole = |part: &str| if part.contains('=') { part.to_owned() } else { format!("{part}=true") };
    let options = weight.map(|weight| format!("weight={weight}")).into_iter().chain(parts.map(whole));
    let backend = model::Backend::new(parse_endpoint(address)?, default_weight());
    set::over(&backend, &options.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_of_a_flag_says_what_it_is_for_what_may_be_written_and_what_holds_without_it() {
        let help =
            |name: &str| Flag::<model::Service>::all().find(|flag| flag.name == name).map(|flag| flag.help());
        for (name, words) in [
            ("max-flows", "Maximum number of concurrent flows: 0 to 67,108,864 [default: 0, unlimited]"),
            ("protocol", "The transport protocol: tcp, udp [default: tcp]"),
            (
                "allow",
                "The allowed clients; all others are denied: ranges of the VIP's family, 192.0.2.0/24 or single \
                 addresses, each once; may be given several times [default: all clients]",
            ),
            ("check-path", "http, https: the path to request [default: /]"),
            ("check-no-verify", "https, grpc: accept any certificate"),
            ("discover-file", "Find backends in this JSON file, and reread it whenever it is replaced"),
        ] {
            assert_eq!(help(name).as_deref(), Some(words), "{name}");
        }
        let mut flags = Flag::<model::Backend>::all();
        let backup = flags.find(|flag| flag.name == "backup").expect("a flag");
        assert_eq!(backup.help(), "Whether it takes new flows only while too few others are up");
    }

    #[test]
    fn a_backend_in_one_word_takes_every_option_of_one() {
        let backend = parse_backend("198.51.100.11:80=7,server-id=0a,max_flows=9,backup").expect("valid");
        let id = backend.server_id.map(|id| id.to_string());
        assert_eq!((backend.weight, backend.max_flows, backend.backup), (7, 9, true));
        assert_eq!(id.as_deref(), Some("0a"));
        for (text, words) in [
            ("198.51.100.11:80,bakcup", "unknown option \"bakcup\"; did you mean \"backup\"?"),
            ("198.51.100.11:80,max-flows", "\"true\" is not a whole number"),
            ("198.51.100.11", "has no port"),
        ] {
            let wrong = parse_backend(text).expect_err("refused");
            assert!(wrong.contains(words), "{text}: {wrong}");
        }
    }
}

//! Reading the sources, checking every key, and errors that name the place, the key and the fix.

use super::key::{Key, Rule};
use super::{Config, IndexKind, ModelDevice};
use crate::money::Currency;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use toml::Value;
use toml::de::DeTable;

/// Prefix of the environment variables that set keys. `LONGBOW_HTTP__LISTEN` sets `http.listen`; names without the double
/// underscore are left alone, because orchestrators make such names for services called longbow.
const ENV_PREFIX: &str = "LONGBOW_";
/// Environment variable that names the file when no flag does.
const ENV_FILE: &str = "LONGBOW_CONFIG";
/// Largest configuration file read.
const FILE_BYTES_MAX: u64 = 1_048_576;

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables, all or some.
    pub env: Vec<(String, String)>,
    /// `(flag as typed, key, value)`, for example `("--http", "http.listen", "0.0.0.0:80")`.
    pub flags: Vec<(String, String, String)>,
}

impl Sources {
    /// The environment of this process under the given file and flags.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String, String)>) -> Self {
        let env: Vec<_> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(ENV_PREFIX))
            .collect();
        let file = file.or_else(|| env.iter().find(|(name, _)| name == ENV_FILE).map(|(_, path)| path.into()));
        Self { file, env, flags }
    }
}

/// Where one setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// File and line.
    File(PathBuf, usize),
    /// Environment variable.
    Env(String),
    /// Flag.
    Flag(String),
    /// Nowhere: the default, or several settings together.
    Together,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Together => f.write_str("configuration"),
        }
    }
}

/// One fault of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {fault}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        fault: String,
    },
    /// The file is no TOML.
    #[error("{origin}: not valid TOML: {fault}")]
    Syntax {
        /// File and line.
        origin: Origin,
        /// What the parser said.
        fault: String,
    },
    /// No such key.
    #[error("{origin}: unknown key `{key}`{}", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// Where.
        origin: Origin,
        /// The key as written.
        key: String,
        /// The known key most like it, if one is like it.
        nearest: Option<String>,
    },
    /// A value of the wrong type.
    #[error("{origin}: `{key}` must be {expected}, found {found}")]
    WrongType {
        /// Where.
        origin: Origin,
        /// The key.
        key: String,
        /// What may stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A value out of range.
    #[error("{origin}: `{key}` is {value}, allowed is {allowed}")]
    OutOfRange {
        /// Where.
        origin: Origin,
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The range.
        allowed: String,
    },
    /// Settings that do not go together.
    #[error("{origin}: `{key}` {fault}")]
    Rule {
        /// Where.
        origin: Origin,
        /// The key.
        key: String,
        /// What is wrong and what would be right.
        fault: String,
    },
}

/// Every fault found, one a line. The process exits 64 with nothing bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// Checked values by key path, and what is wrong.
#[derive(Default)]
struct Gathered {
    values: BTreeMap<String, (Value, Origin)>,
    errors: Vec<ConfigError>,
}

pub(super) fn load(sources: &Sources) -> Result<Config, ConfigErrors> {
    let mut gathered = Gathered::default();
    if let Some(path) = &sources.file {
        gathered.file(path);
    }
    for (name, text) in &sources.env {
        if let Some(key) = name.strip_prefix(ENV_PREFIX).filter(|rest| rest.contains("__")) {
            // Names of a table's entries (currency codes) keep their case.
            let mut parts = key.splitn(3, "__");
            let section = parts.next().unwrap_or_default().to_lowercase();
            let mut path = format!("{section}.{}", parts.next().unwrap_or_default().to_lowercase());
            if let Some(entry) = parts.next() {
                path = format!("{path}.{entry}");
            }
            gathered.text(&path, text, Origin::Env(name.clone()));
        }
    }
    for (flag, key, text) in &sources.flags {
        gathered.text(key, text, Origin::Flag(flag.clone()));
    }
    gathered.finish()
}

impl Gathered {
    fn file(&mut self, path: &PathBuf) {
        let unreadable = |fault: String| ConfigError::Unreadable { path: path.clone(), fault };
        let text = match std::fs::metadata(path) {
            Ok(meta) if meta.len() > FILE_BYTES_MAX => {
                Err(unreadable(format!("it is larger than {FILE_BYTES_MAX} bytes")))
            }
            _ => std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string())),
        };
        let text = match text {
            Ok(text) => text,
            Err(error) => return self.errors.push(error),
        };
        let line_at = |at: usize| text.bytes().take(at).filter(|&b| b == b'\n').count() + 1;
        let parsed = DeTable::parse(&text).and_then(|spans| Ok((spans, toml::from_str::<toml::Table>(&text)?)));
        let (spans, table) = match parsed {
            Ok(both) => both,
            Err(error) => {
                let origin = Origin::File(path.clone(), line_at(error.span().map_or(0, |span| span.start)));
                return self.errors.push(ConfigError::Syntax { origin, fault: error.message().to_owned() });
            }
        };
        for (section_key, section_spans) in spans.get_ref().iter() {
            let section = section_key.get_ref().as_ref();
            let origin = |at: usize| Origin::File(path.clone(), line_at(at));
            let (Some(Value::Table(values)), Some(key_spans)) =
                (table.get(section), section_spans.get_ref().as_table())
            else {
                let origin = origin(section_key.span().start);
                self.unknown_or_no_section(section, origin);
                continue;
            };
            if values.is_empty() && !Config::keys().any(|key| key.section == section) {
                self.unknown(section, origin(section_key.span().start));
            }
            for (name, _) in key_spans.iter() {
                let at = origin(name.span().start);
                let name = name.get_ref().as_ref();
                if let Some(value) = values.get(name) {
                    self.value(&format!("{section}.{name}"), value.clone(), at);
                }
            }
        }
    }

    fn unknown_or_no_section(&mut self, section: &str, origin: Origin) {
        if Config::keys().any(|key| key.section == section) {
            let expected = format!("a section, as in [{section}]");
            self.errors.push(ConfigError::WrongType {
                origin,
                key: section.to_owned(),
                expected,
                found: "a value".to_owned(),
            });
        } else {
            self.unknown(section, origin);
        }
    }

    fn unknown(&mut self, key: &str, origin: Origin) {
        self.errors.push(ConfigError::UnknownKey { origin, key: key.to_owned(), nearest: nearest(key) });
    }

    /// A setting written as text, in the environment or on the command line.
    fn text(&mut self, path: &str, text: &str, origin: Origin) {
        if let Some((table, entry)) = path.match_indices('.').nth(1).map(|(at, _)| (&path[..at], &path[at + 1..]))
            && find(table).is_some_and(|key| matches!(key.rule, Rule::Numbers(..)))
        {
            let mut entries = match self.values.get(table) {
                Some((Value::Table(entries), _)) => entries.clone(),
                _ => toml::Table::new(),
            };
            entries.insert(entry.to_owned(), literal(text));
            return self.value(table, Value::Table(entries), origin);
        }
        let Some(key) = find(path) else { return self.unknown(path, origin) };
        let value = match key.rule {
            Rule::Text | Rule::Secret | Rule::Address | Rule::OneOf(_) => Value::String(text.to_owned()),
            Rule::Texts if !text.trim_start().starts_with('[') => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                Value::Array(words.map(|word| Value::String(word.to_owned())).collect())
            }
            _ => literal(text),
        };
        self.value(path, value, origin);
    }

    fn value(&mut self, path: &str, value: Value, origin: Origin) {
        let Some(key) = find(path) else { return self.unknown(path, origin) };
        match check(key, value, &origin) {
            Ok(value) => {
                self.values.insert(path.to_owned(), (value, origin));
            }
            Err(error) => self.errors.push(error),
        }
    }

    fn origin(&self, path: &str) -> Origin {
        self.values.get(path).map_or(Origin::Together, |(_, origin)| origin.clone())
    }

    fn finish(mut self) -> Result<Config, ConfigErrors> {
        if !self.errors.is_empty() {
            return Err(ConfigErrors(self.errors));
        }
        let mut tree = toml::Table::new();
        for (path, (value, _)) in &self.values {
            if let Some((section, name)) = path.split_once('.')
                && let Value::Table(section) = tree.entry(section).or_insert_with(|| Value::Table(toml::Table::new()))
            {
                section.insert(name.to_owned(), value.clone());
            }
        }
        let config: Config = match serde_path_to_error::deserialize(tree) {
            Ok(config) => config,
            Err(error) => {
                let key = error.path().to_string();
                let (origin, fault) = (self.origin(&key), error.inner().message().to_owned());
                return Err(ConfigErrors(vec![ConfigError::Rule { origin, key, fault }]));
            }
        };
        for (key, fault) in together(&config) {
            let origin = self.origin(key);
            self.errors.push(ConfigError::Rule { origin, key: key.to_owned(), fault });
        }
        if self.errors.is_empty() { Ok(config) } else { Err(ConfigErrors(self.errors)) }
    }
}

/// Rules over several keys: `(key, fault)`.
fn together(config: &Config) -> Vec<(&'static str, String)> {
    let mut faults = Vec::new();
    let mut rule = |ok: bool, key: &'static str, fault: &str| {
        if !ok {
            faults.push((key, fault.to_owned()));
        }
    };
    let admin = &config.admin;
    rule(
        admin.allow_remote || admin.listen.ip().is_loopback(),
        "admin.listen",
        "can be reached by other machines; listen on 127.0.0.1 or set admin.allow_remote = true",
    );
    rule(
        admin.listen != config.http.listen || admin.listen.port() == 0,
        "admin.listen",
        "is the address of http.listen; give each its own port",
    );
    let auction = &config.auction;
    rule(auction.tmax_default_ms <= auction.tmax_max_ms, "auction.tmax_default_ms", "is above auction.tmax_max_ms");
    rule(auction.tmax_min_ms <= auction.tmax_default_ms, "auction.tmax_min_ms", "is above auction.tmax_default_ms");
    rule(auction.candidates <= auction.candidates_max, "auction.candidates", "is above auction.candidates_max");
    rule(config.events.segment_mib <= config.events.retain_mib, "events.segment_mib", "is above events.retain_mib");
    rule(config.demo.long_users <= config.demo.users, "demo.long_users", "is above demo.users");
    let url = &config.notices.public_url;
    let web = url.is_empty() || url.starts_with("http://") || url.starts_with("https://");
    rule(
        web && !url.ends_with('/') && !url.contains(['?', '#', ' ']),
        "notices.public_url",
        "must start with http:// or https://, end without a slash, and have no query",
    );
    let exact = config.index.kind != IndexKind::Exact || config.index.lists == 0;
    rule(exact, "index.lists", "has no meaning for index.kind \"exact\"");
    let encoder = config.index.device != ModelDevice::Cuda || config.model.device != ModelDevice::Cpu;
    rule(
        encoder,
        "index.device",
        "\"cuda\" searches beside an encoder on the GPU: set model.device to \"cuda\" or \"auto\"",
    );
    for code in config.currencies.rates.keys().filter(|code| Currency::parse(code).is_none()) {
        rule(false, "currencies.rates", &format!("names `{code}`: use three letters of ISO 4217, as in EUR"));
    }
    let dollar = config.currencies.rates.get(Currency::USD.as_str());
    rule(
        dollar.is_none_or(|rate| rate.total_cmp(&1.0).is_eq()),
        "currencies.rates",
        "names USD: rates are in it; leave it out",
    );
    faults
}

fn find(path: &str) -> Option<&'static Key> {
    Config::keys().find(|key| path.split_once('.') == Some((key.section, key.name)))
}

/// The known key (or section, for a bare word) that a slip of the hand most likely meant.
fn nearest(written: &str) -> Option<String> {
    let name = written.rsplit('.').next().unwrap_or(written);
    let known: Vec<String> = if written.contains('.') {
        Config::keys().map(Key::path).collect()
    } else {
        Config::keys().flat_map(|key| [key.section.to_owned(), key.path()]).collect()
    };
    let distance = |known: &String| {
        let whole = strsim::damerau_levenshtein(written, known);
        // The right name in the wrong section, or without one.
        let moved = known.split_once('.').is_some_and(|(_, n)| n == name);
        if moved { whole.min(2) } else { whole }
    };
    let best = known.into_iter().min_by_key(distance)?;
    (distance(&best) <= 2.max(written.len() / 4)).then_some(best)
}

/// Text as a TOML value if it is one, else as a string, so that a wrong type can be named.
fn literal(text: &str) -> Value {
    let parsed = format!("v = {}", text.trim()).parse::<toml::Table>().ok();
    parsed.and_then(|mut table| (table.len() == 1).then(|| table.remove("v")).flatten()).unwrap_or_else(|| text.into())
}

fn check(key: &Key, value: Value, origin: &Origin) -> Result<Value, ConfigError> {
    let wrong_type = |value: &Value| {
        // A secret is not shown even when it is wrong.
        let found = if key.rule == Rule::Secret { value.type_str().to_owned() } else { describe(value) };
        Err(ConfigError::WrongType { origin: origin.clone(), key: key.path(), expected: key.rule.expected(), found })
    };
    let out_of_range = |value: String| {
        let allowed = key.rule.expected();
        Err(ConfigError::OutOfRange { origin: origin.clone(), key: key.path(), value, allowed })
    };
    #[expect(clippy::cast_precision_loss, reason = "a setting, not money")]
    let number = |value: &Value| value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64));
    match (key.rule, &value) {
        (Rule::Int(low, high), Value::Integer(n)) if !(low..=high).contains(n) => out_of_range(n.to_string()),
        (Rule::Float(low, high), _) => match number(&value) {
            Some(n) if (low..=high).contains(&n) => Ok(Value::Float(n)),
            Some(n) => out_of_range(n.to_string()),
            None => wrong_type(&value),
        },
        (Rule::OneOf(words), Value::String(word)) if !words.contains(&word.as_str()) => out_of_range(describe(&value)),
        (Rule::Address, Value::String(text)) => match address(text) {
            Some(address) => Ok(Value::String(address.to_string())),
            None => wrong_type(&value),
        },
        (Rule::Texts, Value::Array(list)) if list.iter().all(Value::is_str) => Ok(value),
        (Rule::Numbers(low, high), Value::Table(entries)) => {
            for (name, entry) in entries {
                match number(entry) {
                    Some(n) if (low..=high).contains(&n) => {}
                    Some(n) => return out_of_range(format!("{n} for {name}")),
                    None => return wrong_type(entry),
                }
            }
            Ok(value)
        }
        (Rule::Int(..), Value::Integer(_))
        | (Rule::Flag, Value::Boolean(_))
        | (Rule::Text | Rule::Secret | Rule::OneOf(_), Value::String(_)) => Ok(value),
        _ => wrong_type(&value),
    }
}

fn address(text: &str) -> Option<SocketAddr> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().ok()
}

fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the text {text:?}"),
        Value::Integer(n) => format!("the number {n}"),
        Value::Float(n) => format!("the number {n}"),
        Value::Boolean(b) => format!("{b}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        Value::Datetime(_) => "a date".to_owned(),
    }
}

//! The effective settings as a TOML file that could be read back (but for secrets).

use super::{Config, Key, Rule};
use std::fmt::Write as _;

pub(super) fn to_toml(config: &Config) -> String {
    // Plain data always serialises; an empty tree would print keys without values.
    let tree = toml::Table::try_from(config).unwrap_or_default();
    let mut out = String::new();
    let mut section = "";
    for key in Config::keys() {
        if key.section != section {
            section = key.section;
            let gap = if out.is_empty() { "" } else { "\n" };
            let _ = writeln!(out, "{gap}[{section}]");
        }
        for line in key.doc {
            let _ = writeln!(out, "#{line}");
        }
        if let Some(range) = range(key) {
            let _ = writeln!(out, "# {range}");
        }
        let value = tree.get(key.section).and_then(|section| section.get(key.name));
        let value = value.map_or_else(String::new, |value| match value {
            toml::Value::Table(entries) => {
                let entries: Vec<_> = entries.iter().map(|(name, value)| format!("{name} = {value}")).collect();
                format!("{{ {} }}", entries.join(", "))
            }
            value => value.to_string(),
        });
        let hidden = if key.rule == Rule::Secret && value != "\"\"" { "# " } else { "" };
        let _ = writeln!(out, "{hidden}{} = {value}", key.name);
    }
    out
}

fn range(key: &Key) -> Option<String> {
    match key.rule {
        Rule::Int(..) | Rule::Float(..) => Some(format!("({})", key.rule.expected())),
        Rule::OneOf(_) => Some(format!("({})", key.rule.expected())),
        _ => None,
    }
}

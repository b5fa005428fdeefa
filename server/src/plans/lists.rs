//! Limits of a plan's texts and lists.

use super::{FieldError, Plan};
use crate::ids::ID_BYTES_MAX;
use std::collections::HashMap;

/// Longest name of a plan, in characters.
pub const PLAN_NAME_CHARS_MAX: usize = 256;
/// Most deals that one plan may buy through.
pub const PLAN_DEALS_MAX: usize = 1_000;
/// Longest domain name (RFC 1035, section 2.3.4).
const DOMAIN_BYTES_MAX: usize = 253;

impl Plan {
    /// Checks texts and lists of a plan that is written. Apart from [`Plan::validate`], so that a plan stored before these were rules is
    /// served as before, and told of when it is changed.
    ///
    /// # Errors
    /// The first field over its limit, or that repeats an entry.
    pub fn check_lists(&self) -> Result<(), FieldError> {
        let refuse = |field: &str, fault: String| Err(FieldError::new(field, fault));
        if self.name.chars().count() > PLAN_NAME_CHARS_MAX {
            return refuse("name", format!("may have at most {PLAN_NAME_CHARS_MAX} characters"));
        }
        if self.domain.len() > DOMAIN_BYTES_MAX {
            return refuse("domain", format!("may have at most {DOMAIN_BYTES_MAX} bytes"));
        }
        let sound = |text: &str| !text.trim().is_empty() && text.len() <= ID_BYTES_MAX;
        if self.seat.as_deref().is_some_and(|seat| !sound(seat)) {
            return refuse("seat", format!("must have 1 to {ID_BYTES_MAX} bytes; leave it out if there is none"));
        }
        if self.deals.len() > PLAN_DEALS_MAX {
            let found = self.deals.len();
            return refuse("deals", format!("may list at most {PLAN_DEALS_MAX} deal ids, found {found}"));
        }
        if let Some(at) = self.deals.iter().position(|deal| !sound(deal)) {
            return refuse(&format!("deals[{at}]"), format!("must have 1 to {ID_BYTES_MAX} bytes"));
        }
        no_repeat("deals", self.deals.iter().map(String::as_str))?;
        no_repeat("items", self.items.iter().map(|item| item.as_str()))
    }
}

fn no_repeat<'a>(field: &str, entries: impl Iterator<Item = &'a str>) -> Result<(), FieldError> {
    let mut seen = HashMap::new();
    for (at, entry) in entries.enumerate() {
        if let Some(first) = seen.insert(entry, at) {
            return Err(FieldError::new(format!("{field}[{at}]"), format!("repeats {field}[{first}]: name each once")));
        }
    }
    Ok(())
}

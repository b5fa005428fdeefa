//! What must hold in a file beyond the shapes of its tensors.

use super::{
    CONTENT_MAX, Dataset, DatasetError, EVENTS_MAX, Events, FORMAT, IMPRESSIONS_MAX, ITEMS_MAX, Impressions, Items,
    Next, USERS_MAX, actions_max,
};

/// Times from here on are no Unix seconds.
const TIME_MAX: i64 = 1 << 40;

fn fault<T>(name: &'static str, fault: impl Into<String>) -> Result<T, DatasetError> {
    Err(DatasetError::Tensor { name, fault: fault.into() })
}

fn length(name: &'static str, found: usize, wanted: usize) -> Result<(), DatasetError> {
    if found == wanted { Ok(()) } else { fault(name, format!("has {found} entries, must have {wanted}")) }
}

fn most(name: &'static str, found: usize, max: usize) -> Result<(), DatasetError> {
    if found <= max { Ok(()) } else { fault(name, format!("has {found} entries, at most {max}: split the file")) }
}

/// The first entry that does not hold.
fn every<T: Copy + std::fmt::Debug>(
    name: &'static str,
    entries: &[T],
    holds: impl Fn(T) -> bool,
    rule: &str,
) -> Result<(), DatasetError> {
    match entries.iter().position(|&entry| !holds(entry)) {
        Some(at) => fault(name, format!("entry {at} is {:?}: {rule}", entries[at])),
        None => Ok(()),
    }
}

/// Ids of items in order, for look-ups.
struct Known(Vec<i64>);

impl Known {
    fn check(&self, name: &'static str, items: &[i64]) -> Result<(), DatasetError> {
        // Most files number their items from 1 without a gap.
        let (first, last) = (self.0.first().copied().unwrap_or(0), self.0.last().copied().unwrap_or(-1));
        let dense = usize::try_from(last.saturating_sub(first)).is_ok_and(|span| span + 1 == self.0.len());
        let known = |item: i64| (first..=last).contains(&item) && (dense || self.0.binary_search(&item).is_ok());
        every(name, items, known, "no such id in items.ids: add the item, or leave the entry out")
    }
}

/// Ids in order, each once.
fn unique(name: &'static str, ids: &[i64]) -> Result<Vec<i64>, DatasetError> {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => fault(name, format!("names {} twice: each id may stand there once", pair[0])),
        None => Ok(sorted),
    }
}

fn offsets(name: &'static str, offsets: &[i64], users: usize, entries: usize) -> Result<(), DatasetError> {
    length(name, offsets.len(), users + 1)?;
    if offsets.first() != Some(&0) || offsets.last().and_then(|&last| usize::try_from(last).ok()) != Some(entries) {
        return fault(name, format!("must begin with 0 and end with {entries}, the number of entries"));
    }
    match offsets.windows(2).position(|pair| pair[0] > pair[1]) {
        Some(user) => fault(name, format!("falls after user {user}: each user's entries follow those of the last")),
        None => Ok(()),
    }
}

fn times(name: &'static str, times: &[i64]) -> Result<(), DatasetError> {
    every(name, times, |time| (0..TIME_MAX).contains(&time), "must be Unix seconds")
}

/// Holds a file to every rule.
pub(super) fn check(set: &Dataset) -> Result<(), DatasetError> {
    if set.about.format != FORMAT {
        return Err(DatasetError::Header(format!(
            "metadata key `{}`: format {} is not {FORMAT}",
            super::KEY,
            set.about.format
        )));
    }
    let known = items(&set.items)?;
    most("users.ids", set.users.len(), USERS_MAX)?;
    unique("users.ids", &set.users)?;
    events(&set.events, set.users.len(), &known)?;
    if let Some(next_events) = &set.next {
        next(next_events, set, &known)?;
    }
    if let Some(shown) = &set.impressions {
        impressions(shown, set.users.len(), &known)?;
    }
    Ok(())
}

fn items(items: &Items) -> Result<Known, DatasetError> {
    let count = items.ids.len();
    most("items.ids", count, ITEMS_MAX)?;
    if items.dimension > CONTENT_MAX {
        return fault("items.vectors", format!("has {} columns, at most {CONTENT_MAX}", items.dimension));
    }
    length("items.vectors", items.vectors.len(), count * items.dimension)?;
    every("items.vectors", &items.vectors, f32::is_finite, "must be a finite number")?;
    length("items.prices", items.prices.len(), count)?;
    every("items.prices", &items.prices, |price| price >= 0, "must be micros, 0 or more")?;
    Ok(Known(unique("items.ids", &items.ids)?))
}

fn events(events: &Events, users: usize, known: &Known) -> Result<(), DatasetError> {
    let count = events.items.len();
    most("events.items", count, EVENTS_MAX)?;
    offsets("events.offsets", &events.offsets, users, count)?;
    length("events.actions", events.actions.len(), count)?;
    length("events.times", events.times.len(), count)?;
    known.check("events.items", &events.items)?;
    let rule = format!("must be an action from 1 to {}", actions_max());
    every("events.actions", &events.actions, |action| (1..=actions_max()).contains(&action), &rule)?;
    times("events.times", &events.times)?;
    for user in 0..users {
        let range = events.of(user);
        let first = range.start;
        if let Some(at) = events.times[range].windows(2).position(|pair| pair[0] > pair[1]) {
            let at = first + at + 1;
            return fault("events.times", format!("entry {at} is before the last one of user {user}: sort by time"));
        }
    }
    Ok(())
}

fn next(next: &Next, set: &Dataset, known: &Known) -> Result<(), DatasetError> {
    length("next.items", next.items.len(), set.users.len())?;
    length("next.times", next.times.len(), set.users.len())?;
    known.check("next.items", &next.items)?;
    times("next.times", &next.times)?;
    for (user, &time) in next.times.iter().enumerate() {
        if set.events.times[set.events.of(user)].last().is_some_and(|&last| last > time) {
            return fault("next.times", format!("entry {user} is before the user's last event: hold the last one out"));
        }
    }
    Ok(())
}

fn impressions(shown: &Impressions, users: usize, known: &Known) -> Result<(), DatasetError> {
    let count = shown.items.len();
    most("impressions.items", count, IMPRESSIONS_MAX)?;
    offsets("impressions.offsets", &shown.offsets, users, count)?;
    length("impressions.times", shown.times.len(), count)?;
    length("impressions.click", shown.click.len(), count)?;
    length("impressions.conversion", shown.conversion.len(), count)?;
    length("impressions.value", shown.value.len(), count)?;
    known.check("impressions.items", &shown.items)?;
    times("impressions.times", &shown.times)?;
    every("impressions.click", &shown.click, |label| label <= 1, "must be 0 or 1")?;
    every("impressions.conversion", &shown.conversion, |label| label <= 1, "must be 0 or 1")?;
    let labels = || shown.click.iter().zip(&shown.conversion).zip(&shown.value);
    if let Some(at) = labels().position(|((click, conversion), _)| conversion > click) {
        return fault("impressions.conversion", format!("entry {at} is 1 without a click: only clicks convert"));
    }
    every("impressions.value", &shown.value, |value| value.is_finite() && value >= 0.0, "must be a number, 0 or more")?;
    if let Some(at) = labels().position(|((_, &conversion), &value)| conversion == 0 && value != 0.0) {
        return fault("impressions.value", format!("entry {at} has no conversion: must be 0"));
    }
    if let Some(truth) = &shown.truth {
        let both = [("impressions.p_click", &truth.click), ("impressions.p_conversion", &truth.conversion)];
        for (name, entries) in both {
            length(name, entries.len(), count)?;
            every(name, entries, |p| (0.0..=1.0).contains(&p), "must be a probability")?;
        }
    }
    Ok(())
}

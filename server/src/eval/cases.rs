//! The users of a file, each with the last event apart from the rest.

use crate::ids::{Id, ItemKey};
use crate::import::Events;
use anyhow::bail;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::{HashMap, HashSet};

/// Most events of a file: they are held in memory, 24 bytes each and their ids.
const EVENTS_MAX: usize = 20_000_000;

/// One event of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Act {
    pub(super) item: ItemKey,
    pub(super) action: u16,
    pub(super) time: i64,
}

/// The users of a file in the order of their first events.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// Events of each user, oldest first; events of one second in the order of the file.
    histories: Vec<Vec<Act>>,
    /// How each item is written.
    names: HashMap<ItemKey, Id>,
}

impl Users {
    /// Reads a file; events without a time happened at `now`, events with an id seen before are left out.
    pub(super) fn read(events: Events, now: i64) -> anyhow::Result<Self> {
        let mut users = Self::default();
        let mut places: HashMap<Id, usize> = HashMap::new();
        let mut seen: HashSet<Id> = HashSet::new();
        for event in events {
            let event = event?;
            if !seen.insert(event.id.clone()) {
                continue;
            }
            if seen.len() > EVENTS_MAX {
                bail!("the file holds more than {EVENTS_MAX} events: evaluate a part of it");
            }
            let name = event.item.clone();
            let event = event.stored(now)?;
            users.names.entry(event.item).or_insert(name);
            let place = *places.entry(event.user).or_insert(users.histories.len());
            if place == users.histories.len() {
                users.histories.push(Vec::new());
            }
            users.histories[place].push(Act { item: event.item, action: event.action, time: event.time });
        }
        users.histories.iter_mut().for_each(|history| history.sort_by_key(|act| act.time));
        Ok(users)
    }

    /// Up to `count` users chosen by `seed`, in the order of the file.
    pub(super) fn sample(&self, count: usize, seed: u64) -> Vec<usize> {
        let all = self.histories.len();
        let mut chosen = rand::seq::index::sample(&mut StdRng::seed_from_u64(seed), all, count.min(all)).into_vec();
        chosen.sort_unstable();
        chosen
    }

    /// All events of a user.
    pub(super) fn events(&self, user: usize) -> &[Act] {
        &self.histories[user]
    }

    /// A user's last event and what came before; `None` if there is nothing before it.
    pub(super) fn split(&self, user: usize) -> Option<(Act, &[Act])> {
        let (&last, before) = self.histories[user].split_last()?;
        (!before.is_empty()).then_some((last, before))
    }

    /// Number of users.
    pub(super) fn len(&self) -> usize {
        self.histories.len()
    }

    /// How an item is written in requests.
    pub(super) fn name(&self, item: ItemKey) -> &Id {
        &self.names[&item]
    }

    /// Every item of the file by its key.
    pub(super) fn items(&self) -> Vec<ItemKey> {
        let mut items: Vec<ItemKey> = self.names.keys().copied().collect();
        items.sort_unstable();
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::Event;

    fn events(lines: &'static [&'static str]) -> Events {
        Box::new(lines.iter().map(|line| Ok(serde_json::from_str::<Event>(line)?)))
    }

    const LINES: &[&str] = &[
        r#"{"id":1,"user":"b","item":"x","action":"click","time":30}"#,
        r#"{"id":2,"user":"a","item":-7,"time":5}"#,
        r#"{"id":3,"user":"b","item":8,"action":"like","time":10}"#,
        r#"{"id":3,"user":"b","item":9,"time":99}"#,
        r#"{"id":4,"user":"b","item":9,"time":30}"#,
    ];

    #[test]
    fn the_last_event_is_held_out_in_the_order_of_time() {
        let users = Users::read(events(LINES), 1_000).unwrap();
        let (last, before) = users.split(0).unwrap();
        assert_eq!((last.item, last.time), (ItemKey(9), 30), "the later of one second; the repeat does not count");
        let before: Vec<_> = before.iter().map(|act| (users.name(act.item).as_str(), act.action, act.time)).collect();
        assert_eq!(before, [("8", 6, 10), ("x", 2, 30)]);
        assert!(users.split(1).is_none(), "one event is no history");
        assert_eq!((users.len(), users.items().len()), (2, 4));
    }

    #[test]
    fn a_sample_follows_its_seed_and_has_no_user_twice() {
        let users = Users { histories: vec![Vec::new(); 100], names: HashMap::new() };
        let sample = users.sample(40, 3);
        assert_eq!(sample, users.sample(40, 3));
        assert_ne!(sample, users.sample(40, 4));
        assert_eq!(sample.len(), 40);
        assert!(sample.is_sorted_by(|a, b| a < b));
        assert_eq!(users.sample(500, 3), (0..100).collect::<Vec<_>>());
    }
}

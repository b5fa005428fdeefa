//! Whom to judge by: sampled users with what they did, what came next, and what they were shown.

use crate::dataset::Dataset;
use crate::ids::{Id, ItemKey};
use crate::import::{Events, STEP_S};
use anyhow::{Context, bail};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// Most events of a file of single events: they are held in memory, 24 bytes each and their ids.
const EVENTS_MAX: usize = 20_000_000;
/// Most bytes of a file of answers.
const ANSWERS_BYTES_MAX: u64 = 64 << 20;

/// One event of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Act {
    pub(super) item: ItemKey,
    pub(super) action: u16,
    pub(super) time: i64,
}

/// The event that came next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) item: ItemKey,
    pub(super) time: i64,
}

/// An impression and what became of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) item: ItemKey,
    pub(super) click: bool,
    pub(super) conversion: bool,
    pub(super) value: f64,
    /// True probabilities of a click, and of a conversion after it.
    pub(super) truth: Option<(f64, f64)>,
}

/// Impressions of one time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Query {
    pub(super) time: i64,
    pub(super) shown: Vec<Shown>,
}

/// A sampled user.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Person {
    /// Oldest first.
    pub(super) history: Vec<Act>,
    pub(super) next: Option<Next>,
    /// Newest first.
    pub(super) queries: Vec<Query>,
}

impl Person {
    /// Events strictly before a time.
    pub(super) fn before(&self, time: i64) -> &[Act] {
        &self.history[..self.history.partition_point(|act| act.time < time)]
    }
}

/// What a file says of them.
#[derive(Debug, Default)]
pub(super) struct Cases {
    /// The sampled users in the order of the file.
    pub(super) people: Vec<Person>,
    pub(super) users_in_file: usize,
    /// How each item of the file is written.
    pub(super) names: HashMap<ItemKey, Id>,
    /// Events of each item in the histories of all users.
    pub(super) counts: HashMap<ItemKey, usize>,
    /// Best achievable figures, as the maker of the file says.
    pub(super) best: BTreeMap<String, f64>,
    /// Items above this number are new to the model, as the maker of the file says.
    pub(super) warm_items: Option<i64>,
}

/// Which users.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) users: usize,
    pub(super) seed: u64,
}

impl Sample {
    /// Chosen users, ascending.
    fn of(self, all: usize) -> Vec<usize> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut chosen = rand::seq::index::sample(&mut random, all, self.users.min(all)).into_vec();
        chosen.sort_unstable();
        chosen
    }
}

/// Every user of a file of events.
#[derive(Default)]
struct Histories {
    /// Names, in the order of their first events.
    users: Vec<Id>,
    /// Events of each, oldest first; events of one second in the order of the file.
    events: Vec<Vec<Act>>,
    names: HashMap<ItemKey, Id>,
}

impl Histories {
    /// Reads a file; events without a time happened at `now`, events with an id seen before are left out.
    fn read(events: Events, now: i64) -> anyhow::Result<Self> {
        let mut all = Self::default();
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
            all.names.entry(event.item).or_insert(name);
            let place = *places.entry(event.user.clone()).or_insert(all.users.len());
            if place == all.users.len() {
                all.users.push(event.user);
                all.events.push(Vec::new());
            }
            all.events[place].push(Act { item: event.item, action: event.action, time: event.time });
        }
        all.events.iter_mut().for_each(|history| history.sort_by_key(|act| act.time));
        Ok(all)
    }

    /// Cases of the sampled users, each with what `next` says or takes from the history.
    fn cases(
        self,
        sample: Sample,
        next: impl Fn(usize, &mut Vec<Act>) -> anyhow::Result<Option<Next>>,
    ) -> anyhow::Result<Cases> {
        let Self { users, mut events, names } = self;
        let mut cases = Cases { users_in_file: users.len(), names, ..Cases::default() };
        for user in sample.of(users.len()) {
            let next = next(user, &mut events[user])?;
            let history = events[user].clone();
            cases.people.push(Person { history, next, queries: Vec::new() });
        }
        for act in events.iter().flatten() {
            *cases.counts.entry(act.item).or_default() += 1;
        }
        Ok(cases)
    }
}

impl Cases {
    /// The last event of each user is the one that came next.
    pub(super) fn leave_one_out(events: Events, sample: Sample, now: i64) -> anyhow::Result<Self> {
        let last = |_, history: &mut Vec<Act>| Ok(history.pop().map(|act| Next { item: act.item, time: act.time }));
        Histories::read(events, now)?.cases(sample, last)
    }

    /// Line n of `answers` holds the item that came next for the user of line n of a sequence file.
    pub(super) fn answered(events: Events, answers: &Path, sample: Sample, now: i64) -> anyhow::Result<Self> {
        let answers = read_answers(answers)?;
        let mut histories = Histories::read(events, now)?;
        let line = |user: &Id| user.as_str().strip_prefix("ml1m-").and_then(|line| line.parse::<usize>().ok());
        let lines: Vec<Option<usize>> = histories.users.iter().map(line).collect();
        let last = lines.iter().flatten().max().copied().unwrap_or(0);
        if last != answers.len() {
            bail!("--answers: has {} lines, the histories have {last}: each history needs one", answers.len());
        }
        for name in &answers {
            let key = ItemKey::parse(name.as_str()).context("--answers: an empty line")?;
            histories.names.entry(key).or_insert_with(|| name.clone());
        }
        let next = |user: usize, history: &mut Vec<Act>| {
            let name = lines[user].and_then(|line| answers.get(line - 1)).context("a user without a line")?;
            let item = ItemKey::parse(name.as_str()).context("--answers: an empty line")?;
            let time = history.last().map_or(now, |act| act.time) + STEP_S;
            Ok(Some(Next { item, time }))
        };
        histories.cases(sample, next)
    }

    /// Users of a data set: the held-out event, and impressions of the newest `queries_max` times of each.
    pub(super) fn of_dataset(set: &Dataset, sample: Sample, queries_max: usize) -> Self {
        let mut cases = Self { users_in_file: set.users.len(), best: set.about.best.clone(), ..Self::default() };
        cases.warm_items = set.about.other.get("warm_items").and_then(serde_json::Value::as_i64);
        cases.names = set.items.ids.iter().map(|id| (ItemKey(*id), Id::from(&*id.to_string()))).collect();
        for &item in &set.events.items {
            *cases.counts.entry(ItemKey(item)).or_default() += 1;
        }
        for user in sample.of(set.users.len()) {
            let act = |at: usize| Act {
                item: ItemKey(set.events.items[at]),
                action: u16::try_from(set.events.actions[at]).unwrap_or(0),
                time: set.events.times[at],
            };
            cases.people.push(Person {
                history: set.events.of(user).map(act).collect(),
                next: set.next.as_ref().map(|all| Next { item: ItemKey(all.items[user]), time: all.times[user] }),
                queries: queries(set, user, queries_max),
            });
        }
        cases
    }

    /// Holds queries to so many impressions; those of one time may then take several.
    pub(super) fn split_queries(&mut self, together: usize) {
        for person in &mut self.people {
            let parts = |query: Query| {
                let part = move |part: &[Shown]| Query { time: query.time, shown: part.to_vec() };
                query.shown.chunks(together.max(1)).map(part).collect::<Vec<_>>()
            };
            person.queries = std::mem::take(&mut person.queries).into_iter().flat_map(parts).collect();
        }
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

fn queries(set: &Dataset, user: usize, queries_max: usize) -> Vec<Query> {
    let Some(all) = &set.impressions else { return Vec::new() };
    let mut places: Vec<usize> = all.of(user).collect();
    places.sort_by_key(|&place| std::cmp::Reverse(all.times[place]));
    let shown = |&place: &usize| {
        let one = all.at(place);
        let truth = one.truth.map(|(click, conversion)| (click.into(), conversion.into()));
        let (click, conversion, value) = (one.click, one.conversion, one.value.into());
        Shown { item: ItemKey(one.item), click, conversion, value, truth }
    };
    let query = |same: &[usize]| Query { time: all.times[same[0]], shown: same.iter().map(shown).collect() };
    places.chunk_by(|&a, &b| all.times[a] == all.times[b]).take(queries_max).map(query).collect()
}

/// One item a line.
fn read_answers(path: &Path) -> anyhow::Result<Vec<Id>> {
    let told = || format!("--answers {}", path.display());
    let size = std::fs::metadata(path).with_context(told)?.len();
    if size > ANSWERS_BYTES_MAX {
        bail!("{}: {size} bytes, at most {ANSWERS_BYTES_MAX}", told());
    }
    let text = std::fs::read_to_string(path).with_context(told)?;
    let lines = text.lines().zip(1..).map(|(line, number)| match line.trim().parse::<u32>() {
        Ok(item) => Ok(Id::from(&*item.to_string())),
        Err(_) => bail!("{}: line {number}: must be one item number", told()),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Events as Acts, Impression, Impressions, Items};
    use crate::import::{Event, Format, read};

    const ALL: Sample = Sample { users: 100, seed: 1 };

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
        let cases = Cases::leave_one_out(events(LINES), ALL, 1_000).unwrap();
        let first = &cases.people[0];
        assert_eq!(first.next, Some(Next { item: ItemKey(9), time: 30 }), "the later of one second; no repeat");
        let before: Vec<_> =
            first.history.iter().map(|act| (cases.name(act.item).as_str(), act.action, act.time)).collect();
        assert_eq!(before, [("8", 6, 10), ("x", 2, 30)]);
        assert!(cases.people[1].history.is_empty(), "one event is no history");
        assert_eq!((cases.users_in_file, cases.items().len(), cases.counts.len()), (2, 4, 2));
    }

    #[test]
    fn answers_belong_to_the_lines_of_the_histories() {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("input.txt"), dir.path().join("output.txt"));
        std::fs::write(&input, "10 20\n\n30\n").unwrap();
        let cases = |answers: &str| {
            std::fs::write(&output, answers).unwrap();
            Cases::answered(read(Format::Ml1m, &input, 600).unwrap(), &output, ALL, 600)
        };
        let found = cases("7\n8\n9\n").unwrap();
        assert_eq!(found.people[0].next, Some(Next { item: ItemKey(7), time: 660 }));
        assert_eq!(found.people[0].history.len(), 2);
        assert_eq!(found.people[1].next, Some(Next { item: ItemKey(9), time: 660 }), "the empty line keeps its place");
        assert_eq!((found.counts.len(), found.name(ItemKey(8)).as_str()), (3, "8"));
        assert!(cases("7\n8\n").unwrap_err().to_string().contains("has 2 lines, the histories have 3"));
        assert!(format!("{:#}", cases("7\n8 9\n1\n").unwrap_err()).contains("line 2"));
    }

    #[test]
    fn impressions_of_one_time_are_asked_for_together_newest_first() {
        let mut events = Acts::default();
        for time in [10, 20, 20, 30] {
            events.push(time, 2, time);
        }
        events.end_user();
        let mut shown = Impressions::default();
        for (item, time) in [(10, 20), (20, 40), (30, 20), (40, 20), (20, 21)] {
            shown.push(Impression { item, time, ..Impression::default() });
        }
        shown.end_user();
        let ids = vec![10, 20, 30, 40];
        let items = Items { vectors: Vec::new(), dimension: 0, prices: vec![0; 4], ids };
        let set = Dataset { items, users: vec![5], events, impressions: Some(shown), ..Dataset::default() };
        let person = |(times, together)| {
            let mut cases = Cases::of_dataset(&set, ALL, times);
            cases.split_queries(together);
            cases.people.remove(0)
        };
        let asked = |person: &Person| -> Vec<(i64, Vec<i64>)> {
            let items = |query: &Query| query.shown.iter().map(|shown| shown.item.0).collect();
            person.queries.iter().map(|query| (query.time, items(query))).collect()
        };
        let all = person((9, 2));
        assert_eq!(asked(&all), [(40, vec![20]), (21, vec![20]), (20, vec![10, 30]), (20, vec![40])]);
        assert_eq!(asked(&person((2, 9))), [(40, vec![20]), (21, vec![20])]);
        assert_eq!([20, 21, 40, 10].map(|time| all.before(time).len()), [1, 3, 4, 0], "strictly before");
    }

    #[test]
    fn a_sample_follows_its_seed_and_has_no_user_twice() {
        let sample = |users, seed| Sample { users, seed }.of(100);
        assert_eq!(sample(40, 3), sample(40, 3));
        assert_ne!(sample(40, 3), sample(40, 4));
        assert_eq!(sample(40, 3).len(), 40);
        assert!(sample(40, 3).is_sorted_by(|a, b| a < b));
        assert_eq!(sample(500, 3), (0..100).collect::<Vec<_>>());
    }
}

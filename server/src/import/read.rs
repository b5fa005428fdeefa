//! Files to events, a line or a row at a time.

use super::{Event, Format, taobao};
use anyhow::{Context, bail};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Events, or what is wrong with the file and where.
pub type Events = Box<dyn Iterator<Item = anyhow::Result<Event>> + Send>;

/// Longest line, bytes: a user of a sequence file with some 100,000 events.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Between events of files without times.
pub(crate) const STEP_S: i64 = 60;
/// Rating from which on a rating is a like.
const LIKE_MIN: f64 = 4.0;
/// Rating from which on it is a view.
const VIEW_MIN: f64 = 3.0;

const VIEW: u16 = crate::actions::VIEW;
const LIKE: u16 = 6;
const SKIP: u16 = 7;

/// The events of a file. `now` is the time of the last event of each user where the file has no times.
///
/// # Errors
/// The file cannot be opened or its head is not that of the format.
pub fn read(format: Format, path: &Path, now: i64) -> anyhow::Result<Events> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    if format == Format::Taobao {
        return taobao::read(file, now).with_context(|| format!("{}", path.display()));
    }
    let input = BufReader::with_capacity(1 << 16, file);
    lines(format, input, now).with_context(|| format!("{}", path.display()))
}

/// The events of a text file.
pub(super) fn lines(format: Format, input: impl BufRead + Send + 'static, now: i64) -> anyhow::Result<Events> {
    let mut lines = Lines { input, number: 0 };
    match format {
        Format::Ndjson => Ok(Box::new(lines.filter_map(|line| match line {
            Ok((_, text)) if text.trim().is_empty() => None,
            Ok((number, text)) => Some(
                serde_json::from_str(&text).with_context(|| format!("line {number}: no event as /v1/events takes it")),
            ),
            Err(error) => Some(Err(error)),
        }))),
        Format::Movielens => {
            let (_, header) = lines.next().context("is empty; the first line must name the columns")??;
            let columns = Columns::of(&header)?;
            Ok(Box::new(lines.map(move |line| line.and_then(|(number, text)| columns.event(number, &text)))))
        }
        Format::Ml1m => Ok(Box::new(lines.flat_map(move |line| match line {
            Ok((number, text)) => sequence(number, &text, now),
            Err(error) => vec![Err(error)],
        }))),
        Format::Taobao => bail!("a taobao file is no text"),
    }
}

/// Numbered lines of bounded length, without their ends.
struct Lines<R> {
    input: R,
    number: usize,
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = anyhow::Result<(usize, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.number += 1;
        let mut text = String::new();
        let read = self.input.by_ref().take(LINE_BYTES_MAX).read_line(&mut text);
        match read.with_context(|| format!("line {}", self.number)) {
            Ok(0) => None,
            Ok(_) if !text.ends_with('\n') && text.len() as u64 == LINE_BYTES_MAX => {
                Some(Err(anyhow::anyhow!("line {}: is longer than {LINE_BYTES_MAX} bytes", self.number)))
            }
            Ok(_) => {
                text.truncate(text.trim_end_matches(['\n', '\r']).len());
                Some(Ok((self.number, text)))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// Places of the columns of a MovieLens file.
#[derive(Clone, Copy)]
struct Columns {
    user: usize,
    item: usize,
    rating: usize,
    timestamp: usize,
}

impl Columns {
    /// From a header such as `user_id:token item_id:token rating:float timestamp:float`, tab-separated.
    fn of(header: &str) -> anyhow::Result<Self> {
        let names: Vec<&str> = header.split('\t').map(|name| name.split(':').next().unwrap_or(name)).collect();
        let place = |wanted: &str| {
            let found = names.iter().position(|name| *name == wanted);
            found.with_context(|| format!("line 1: has no column `{wanted}`; found {}", names.join(", ")))
        };
        Ok(Self {
            user: place("user_id")?,
            item: place("item_id")?,
            rating: place("rating")?,
            timestamp: place("timestamp")?,
        })
    }

    fn event(self, number: usize, text: &str) -> anyhow::Result<Event> {
        let cells: Vec<&str> = text.split('\t').collect();
        let cell = |at: usize, name: &str| {
            let found = cells.get(at).copied().filter(|cell| !cell.is_empty());
            found.with_context(|| format!("line {number}: `{name}` is missing"))
        };
        let (user, item) = (cell(self.user, "user_id")?, cell(self.item, "item_id")?);
        let rating: f64 = cell(self.rating, "rating")?.parse().with_context(|| format!("line {number}: rating"))?;
        let time = cell(self.timestamp, "timestamp")?;
        // A "float" column, but the times are whole seconds.
        let time: i64 =
            time.strip_suffix(".0").unwrap_or(time).parse().with_context(|| format!("line {number}: timestamp"))?;
        let action = match rating {
            rating if rating >= LIKE_MIN => LIKE,
            rating if rating >= VIEW_MIN => VIEW,
            rating if rating.is_finite() => SKIP,
            _ => bail!("line {number}: rating must be a finite number"),
        };
        Ok(Event::of(format!("ml:{user}:{item}:{time}"), user, item, (action, time)))
    }
}

/// One user of a sequence file: the user's name is the number of the line.
fn sequence(number: usize, text: &str, now: i64) -> Vec<anyhow::Result<Event>> {
    let user = format!("ml1m-{number}");
    let items: Vec<&str> = text.split_ascii_whitespace().collect();
    if let Some(wrong) = items.iter().find(|item| item.parse::<u32>().is_err()) {
        return vec![Err(anyhow::anyhow!("line {number}: `{wrong}` is no item number"))];
    }
    let times = times(items.len(), now);
    let events = items.iter().zip(times).enumerate();
    events.map(|(at, (item, time))| Ok(Event::of(format!("{user}:{at}"), &user, item, (VIEW, time)))).collect()
}

/// Times of `count` events, one a minute, the last at `now`.
pub(super) fn times(count: usize, now: i64) -> impl Iterator<Item = i64> {
    let back = i64::try_from(count).unwrap_or(i64::MAX / STEP_S);
    (1..=back).rev().map(move |left| now - (left - 1) * STEP_S)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn all(format: Format, text: &'static str) -> anyhow::Result<Vec<Event>> {
        lines(format, Cursor::new(text), 1_000_000)?.collect()
    }

    #[test]
    fn movielens_ratings_become_likes_views_and_skips_at_their_times() {
        let text = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n7\t-5\t5.0\t900.0\r\n7\t6\t1\t901";
        let events = all(Format::Movielens, text).unwrap();
        let seen: Vec<_> = events
            .iter()
            .map(|e| (e.user.as_str(), e.item.as_str(), e.action.as_ref().unwrap().as_str().unwrap(), e.time.unwrap()))
            .collect();
        assert_eq!(seen, [("196", "242", "view", 881_250_949), ("7", "-5", "like", 900), ("7", "6", "skip", 901)]);
        assert_eq!(events[0].id.as_str(), "ml:196:242:881250949");
        // Columns are found by name, in any order.
        let turned = all(Format::Movielens, "timestamp\trating\titem_id\tuser_id\n5\t4\t3\t2\n").unwrap();
        assert_eq!((turned[0].user.as_str(), turned[0].time), ("2", Some(5)));
    }

    #[test]
    fn a_fault_names_its_line() {
        let head = "user_id\titem_id\trating\ttimestamp\n";
        assert!(format!("{:#}", all(Format::Movielens, "a\tb\n").unwrap_err()).contains("user_id"));
        assert!(format!("{:#}", all(Format::Movielens, "").unwrap_err()).contains("empty"));
        for (text, fault) in [
            ("1\t2\t3\t4\n1\t2\t3", "line 3: `timestamp`"),
            ("1\t2\tNaN\t4", "line 2: rating"),
            ("1\t2\t3\tx", "line 2: timestamp"),
        ] {
            let text: &'static str = Box::leak(format!("{head}{text}").into_boxed_str());
            let error = format!("{:#}", all(Format::Movielens, text).unwrap_err());
            assert!(error.contains(fault), "{error}");
        }
        assert!(format!("{:#}", all(Format::Ml1m, "1 2\n3 x").unwrap_err()).contains("line 2: `x`"));
        assert!(format!("{:#}", all(Format::Ndjson, "{\"id\":1}\n").unwrap_err()).contains("line 1"));
    }

    #[test]
    fn sequences_get_one_event_a_minute_up_to_now() {
        let events = all(Format::Ml1m, "10 20 30\n\n40\n").unwrap();
        let seen: Vec<_> = events.iter().map(|e| (e.user.as_str(), e.item.as_str(), e.time.unwrap())).collect();
        assert_eq!(
            seen,
            [
                ("ml1m-1", "10", 999_880),
                ("ml1m-1", "20", 999_940),
                ("ml1m-1", "30", 1_000_000),
                ("ml1m-3", "40", 1_000_000)
            ]
        );
    }

    #[test]
    fn lines_of_events_are_read_as_the_server_would_and_keep_what_they_say() {
        let text = "{\"id\":\"a\",\"user\":7,\"item\":-12,\"action\":2,\"time\":5,\"value_micros\":9}\n\n{\"id\":1,\"user\":\"u\",\"item\":\"x\"}\n";
        let events = all(Format::Ndjson, text).unwrap();
        let first = events[0].clone().stored(99).unwrap();
        assert_eq!((first.item.0, first.action, first.time, first.value_micros.unwrap().0), (-12, 2, 5, 9));
        let second = events[1].clone().stored(99).unwrap();
        assert_eq!((second.event_id.as_str(), second.action, second.time), ("1", VIEW, 99));
        let again: Event = serde_json::from_str(&serde_json::to_string(&events[0]).unwrap()).unwrap();
        assert_eq!(again, events[0]);
    }

    #[test]
    fn a_line_without_end_is_refused_and_not_read_into_memory() {
        let endless = BufReader::new(std::io::repeat(b'1'));
        let first = lines(Format::Ml1m, endless, 0).unwrap().next().unwrap();
        assert!(first.unwrap_err().to_string().contains("longer than"));
    }
}

//! User features of the public display-advertising sequences, a parquet file: one row a user, `129_1` the user and
//! `150_2_180` the items the user dealt with, hashed to 64 bits (negative ones too).
//!
//! The file says neither when an event was nor what it was: events count as clicks (the set records clicked items), one
//! a minute.

use super::Event;
use super::read::{Events, times};
use anyhow::{Context, bail};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use std::fs::File;

const USER: &str = "129_1";
const ITEMS: &str = "150_2_180";
/// Most items of one user.
const ITEMS_MAX: usize = 1_000_000;

/// The events of a file, user by user.
pub(super) fn read(file: File, now: i64) -> anyhow::Result<Events> {
    let reader = SerializedFileReader::new(file).context("is no parquet file")?;
    let schema = reader.metadata().file_metadata().schema();
    for wanted in [USER, ITEMS] {
        if !schema.get_fields().iter().any(|field| field.name() == wanted) {
            bail!("has no column `{wanted}`: take a file of user features");
        }
    }
    let rows = reader.into_iter();
    Ok(Box::new(rows.enumerate().flat_map(move |(number, row)| {
        let events = row.map_err(anyhow::Error::from).and_then(|row| user(&row, now));
        match events.with_context(|| format!("row {number}")) {
            Ok(events) => events.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    })))
}

fn user(row: &Row, now: i64) -> anyhow::Result<Vec<Event>> {
    let mut user = None;
    let mut items = Vec::new();
    for (name, field) in row.get_column_iter() {
        match (name.as_str(), field) {
            (USER, Field::Long(id)) => user = Some(id.to_string()),
            (ITEMS, Field::ListInternal(list)) if list.elements().len() > ITEMS_MAX => {
                bail!("`{ITEMS}` has more than {ITEMS_MAX} items");
            }
            (ITEMS, Field::ListInternal(list)) => {
                for element in list.elements() {
                    match element {
                        Field::Long(item) => items.push(item.to_string()),
                        other => bail!("`{ITEMS}` holds `{other}`: must be 64-bit integers"),
                    }
                }
            }
            // A user without events.
            (ITEMS, Field::Null) => {}
            (USER | ITEMS, other) => bail!("`{name}` is `{other}`: must be 64-bit integers"),
            _ => {}
        }
    }
    let user = user.with_context(|| format!("`{USER}` is missing"))?;
    let times = times(items.len(), now);
    let events = items.iter().zip(times).enumerate();
    let event =
        |at, item: &String, time| Event::of(format!("taobao:{user}:{at}"), &user, item, (crate::actions::CLICK, time));
    Ok(events.map(|(at, (item, time))| event(at, item, time)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::data_type::Int64Type;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    /// Two users: one with three items, one with none.
    fn fixture(items: &str) -> File {
        let schema = format!(
            "message schema {{ optional int64 129_1; optional group {items} (LIST) {{ repeated group list {{ optional int64 element; }} }} }}"
        );
        let schema = Arc::new(parse_message_type(&schema).unwrap());
        let file = tempfile::tempfile().unwrap();
        let properties = Arc::new(WriterProperties::builder().build());
        let mut writer = SerializedFileWriter::new(file.try_clone().unwrap(), schema, properties).unwrap();
        let mut rows = writer.next_row_group().unwrap();
        let mut users = rows.next_column().unwrap().unwrap();
        users.typed::<Int64Type>().write_batch(&[-9, 4], Some(&[1, 1]), None).unwrap();
        users.close().unwrap();
        let mut lists = rows.next_column().unwrap().unwrap();
        let (values, defined, repeated) = ([i64::MIN, 5, -1], [3, 3, 3, 0], [0, 1, 1, 0]);
        lists.typed::<Int64Type>().write_batch(&values, Some(&defined), Some(&repeated)).unwrap();
        lists.close().unwrap();
        rows.close().unwrap();
        writer.close().unwrap();
        file
    }

    #[test]
    fn users_and_negative_items_come_out_whole_and_in_order() {
        let events: Vec<Event> = read(fixture(ITEMS), 6_000).unwrap().map(Result::unwrap).collect();
        let seen: Vec<_> = events.into_iter().map(|e| e.stored(0).unwrap()).collect();
        let got: Vec<_> = seen.iter().map(|e| (e.user.as_str(), e.item.0, e.action, e.time)).collect();
        assert_eq!(got, [("-9", i64::MIN, 2, 5_880), ("-9", 5, 2, 5_940), ("-9", -1, 2, 6_000)]);
    }

    #[test]
    fn another_file_is_refused_by_name_of_the_column() {
        assert!(read(fixture("something"), 0).err().unwrap().to_string().contains("150_2_180"));
        let empty = tempfile::tempfile().unwrap();
        assert!(format!("{:#}", read(empty, 0).err().unwrap()).contains("no parquet file"));
    }
}

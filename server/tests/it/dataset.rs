//! Data set files: what is written is read, and a fault names its tensor.

use longbow::dataset::{self, About, Dataset, Events, FORMAT, Impression, Impressions, Items, KEY, Next};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// Two items, three users of two, no and one events, and impressions of the first.
pub(crate) fn small() -> Dataset {
    let mut events = Events::default();
    events.push(10, 2, 100);
    events.push(-7, 5, 100);
    events.end_user();
    events.end_user();
    events.push(10, 4, 50);
    events.end_user();
    let mut shown = Impressions::default();
    let one = Impression { item: 10, time: 101, truth: Some((0.25, 0.5)), ..Impression::default() };
    shown.push(one);
    shown.push(Impression { item: -7, click: true, conversion: true, value: 1.5, ..one });
    for _ in 0..3 {
        shown.end_user();
    }
    Dataset {
        about: About { format: FORMAT, seed: Some(3), made_by: "a test".to_owned(), ..About::default() },
        items: Items {
            ids: vec![10, -7],
            dimension: 3,
            vectors: vec![0.0, 1.0, -0.5, 2.0, 3.0, 4.0],
            prices: vec![5, 0],
        },
        users: vec![1, 2, 9],
        events,
        next: Some(Next { items: vec![-7, 10, 10], times: vec![200, 0, 50] }),
        impressions: Some(shown),
    }
}

fn written(set: &Dataset) -> Result<Dataset, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.safetensors");
    dataset::write(&path, set).map_err(|fault| fault.to_string())?;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
    dataset::read(&path).map_err(|fault| fault.to_string())
}

#[test]
fn a_file_holds_what_was_written() {
    let mut set = small();
    set.about.best.insert("auc_click".to_owned(), 0.75);
    set.about.other.insert("warm_items".to_owned(), 10.into());
    assert_eq!(written(&set).unwrap(), set);
    set.impressions.as_mut().unwrap().truth = None;
    assert_eq!(written(&set).unwrap(), set);
    (set.impressions, set.next) = (None, None);
    assert_eq!(written(&set).unwrap(), set);
    let shown = small().impressions.unwrap();
    assert_eq!((shown.of(0), shown.of(2)), (0..2, 2..2));
    assert_eq!(shown.at(1).value, 1.5);
}

proptest! {
    #[test]
    fn lists_of_any_length_come_back(lengths in proptest::collection::vec(0usize..40, 0..12), dimension in 0usize..5) {
        let mut set = Dataset { about: small().about, ..Dataset::default() };
        set.items = Items {
            ids: (0..17).collect(), dimension, vectors: (0..17 * dimension).map(|n| n as f32 / 3.0).collect(),
            prices: (0..17).collect(),
        };
        for (user, &length) in lengths.iter().enumerate() {
            set.users.push(user as i64 * 3);
            for event in 0..length {
                set.events.push((event * 5 % 17) as i64, u16::try_from(event % 7 + 1).unwrap(), (1 << 33) + event as i64 / 2);
            }
            set.events.end_user();
        }
        prop_assert_eq!(written(&set).unwrap(), set);
    }
}

#[test]
fn a_fault_names_its_tensor_and_nothing_is_written() {
    let fault = |change: fn(&mut Dataset)| {
        let mut set = small();
        change(&mut set);
        written(&set).unwrap_err()
    };
    type Case = (fn(&mut Dataset), &'static str, &'static str);
    let cases: [Case; 21] = [
        (|set| set.about.format = 2, KEY, "format 2"),
        (|set| set.items.ids[1] = 10, "items.ids", "names 10 twice"),
        (|set| set.items.vectors[2] = f32::NAN, "items.vectors", "finite"),
        (|set| set.items.vectors.truncate(5), "items.vectors", "must have 6"),
        (|set| set.items.prices[0] = -1, "items.prices", "entry 0 is -1"),
        (|set| set.users[2] = 1, "users.ids", "names 1 twice"),
        (|set| set.events.offsets[1] = 9, "events.offsets", "after user 1"),
        (|set| set.events.offsets.truncate(3), "events.offsets", "must have 4"),
        (|set| set.events.items[1] = 8, "events.items", "entry 1 is 8"),
        (|set| set.events.actions[2] = 8, "events.actions", "from 1 to 7"),
        (|set| set.events.actions[2] = 0, "events.actions", "from 1 to 7"),
        (|set| set.events.times[1] = 99, "events.times", "entry 1 is before"),
        (|set| set.events.times[0] = -1, "events.times", "Unix seconds"),
        (|set| set.next.as_mut().unwrap().times[0] = 99, "next.times", "entry 0"),
        (|set| set.next.as_mut().unwrap().items.truncate(2), "next.items", "must have 3"),
        (|set| set.impressions.as_mut().unwrap().click[1] = 0, "impressions.conversion", "entry 1"),
        (|set| set.impressions.as_mut().unwrap().click[0] = 2, "impressions.click", "0 or 1"),
        (|set| set.impressions.as_mut().unwrap().value[0] = 0.5, "impressions.value", "entry 0"),
        (|set| set.impressions.as_mut().unwrap().items[0] = 11, "impressions.items", "no such id"),
        (
            |set| set.impressions.as_mut().unwrap().truth.as_mut().unwrap().click.truncate(1),
            "impressions.p_click",
            "must have 2",
        ),
        (
            |set| set.impressions.as_mut().unwrap().truth.as_mut().unwrap().conversion[0] = 1.5,
            "impressions.p_conversion",
            "probability",
        ),
    ];
    for (change, name, told) in cases {
        let fault = fault(change);
        assert!(fault.contains(name) && fault.contains(told), "{name}, {told}: {fault}");
    }
}

/// The tensors of the small file with some changed, and without the one named.
fn rewritten(path: &Path, without: &str, changed: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let mut all: HashMap<String, TensorView<'_>> = tensors.tensors().into_iter().collect();
    all.remove(without);
    for (name, dtype, shape, data) in changed {
        all.insert((*name).to_owned(), TensorView::new(*dtype, shape.clone(), data).unwrap());
    }
    let changed = safetensors::serialize(&all, header.metadata().clone()).unwrap();
    std::fs::write(path, changed).unwrap();
}

#[test]
fn damaged_files_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.safetensors");
    let read = || dataset::read(&path).unwrap_err().to_string();
    assert!(read().contains("set.safetensors"), "no such file");
    dataset::write(&path, &small()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 7, 8, 100, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(read().contains("longbow dataset"), "{length} bytes: {}", read());
    }
    std::fs::write(&path, [u8::MAX; 64]).unwrap();
    assert!(read().contains("claims a header"), "{}", read());
    let with = |without: &str, changed: &[(&str, Dtype, Vec<usize>, Vec<u8>)]| {
        std::fs::write(&path, &whole).unwrap();
        rewritten(&path, without, changed);
        read()
    };
    assert_eq!(with("users.ids", &[]), "tensor users.ids: is missing");
    assert_eq!(with("next.times", &[]), "tensor next.times: is missing");
    assert_eq!(with("impressions.p_click", &[]), "tensor impressions.p_click: is missing");
    let ids = vec![("users.ids", Dtype::I32, vec![3], vec![0; 12])];
    assert_eq!(with("", &ids), "tensor users.ids: is of type I32, must be I64");
    let ids = vec![("users.ids", Dtype::I64, vec![3, 1], vec![0; 24])];
    assert!(with("", &ids).contains("must have 1 dimension"));
}

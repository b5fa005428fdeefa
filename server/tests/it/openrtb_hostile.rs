//! Hostile request bodies: nothing panics, and whatever is accepted keeps the promises of the mapped form.

use crate::shared::exchange_requests;
use longbow::http::openrtb::{BidRequest, IMPS_MAX, parse};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::OnceLock;

/// Recorded requests, or a few written here when the recording is absent.
fn seeds() -> &'static [String] {
    static SEEDS: OnceLock<Vec<String>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        exchange_requests().unwrap_or_else(|| {
            let native = json!({"ver": "1.2", "assets": [{"id": 1, "required": 1, "title": {"len": 9}}]}).to_string();
            vec![
                json!({"id": "r", "tmax": 100, "cur": ["USD"], "imp": [{"id": "1", "bidfloor": 0.5, "banner": {"w": 300, "h": 250,
                    "format": [{"w": 1, "h": 2}]}}], "user": {"id": "u"}, "device": {"w": 1, "geo": {"country": "FRA"}}})
                .to_string(),
                json!({"id": "r", "imp": [{"id": "1", "native": {"request": native}}, {"id": "2", "video": {"mimes":
                    ["video/mp4"], "protocols": [2, 3]}, "pmp": {"deals": [{"id": "d", "bidfloor": 1}]}}]})
                .to_string(),
            ]
        })
    })
}

fn holds_promises(request: &BidRequest) -> Result<(), TestCaseError> {
    prop_assert!(!request.terms.auction_id.is_empty());
    prop_assert!((1..=IMPS_MAX).contains(&request.slots.len()));
    prop_assert!(request.tmax_ms != Some(0));
    let mut ids: Vec<_> = request.slots.iter().map(|slot| &slot.imp_id).collect();
    ids.sort();
    ids.dedup();
    prop_assert_eq!(ids.len(), request.slots.len());
    for slot in &request.slots {
        prop_assert!(slot.floor.0 >= 0 && !slot.imp_id.is_empty());
        prop_assert!(slot.deals.iter().all(|deal| deal.floor.0 >= 0 && !deal.id.is_empty()));
        if let Some(banner) = &slot.banner {
            prop_assert!(banner.sizes.iter().all(|&(w, h)| w > 0 && h > 0));
        }
        if let Some(video) = &slot.video {
            prop_assert!(!video.mimes.is_empty());
        }
        if let Some(native) = &slot.native {
            prop_assert!(!native.assets.is_empty());
        }
    }
    Ok(())
}

fn check(body: &[u8]) -> Result<(), TestCaseError> {
    match parse(body) {
        Ok(request) => holds_promises(&request),
        Err(error) => {
            prop_assert!(!error.field.is_empty() && !error.fault.is_empty());
            prop_assert!(error.header_text().bytes().all(|b| (0x20..0x7f).contains(&b)));
            Ok(())
        }
    }
}

const KEYS: &[&str] = &[
    "id",
    "imp",
    "banner",
    "video",
    "native",
    "audio",
    "request",
    "mimes",
    "format",
    "w",
    "h",
    "bidfloor",
    "pmp",
    "deals",
    "cur",
    "bidfloorcur",
    "assets",
    "title",
    "len",
    "tmax",
    "at",
    "user",
    "eids",
    "uids",
    "device",
    "ext",
    "regs",
    "gdpr",
    "secure",
    "battr",
    "durfloors",
    "mincpmpersec",
    "rqddurs",
    "site",
    "app",
    "geo",
    "badv",
    "bcat",
    "strange",
];

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-3i64..400).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("USD")),
        Just(json!("-1")),
        Just(json!("1e400")),
        Just(json!("{\"assets\":[{\"id\":1,\"title\":{\"len\":-1}}]}")),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(KEYS), inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

/// Replaces the `steps`-th node of a tree, counted in reading order.
fn replace(value: &mut Value, steps: &mut usize, with: &Value) {
    if *steps == 0 {
        *value = with.clone();
        *steps = usize::MAX;
        return;
    }
    *steps -= 1;
    match value {
        Value::Array(list) => list.iter_mut().for_each(|child| {
            if *steps != usize::MAX {
                replace(child, steps, with);
            }
        }),
        Value::Object(fields) => fields.values_mut().for_each(|child| {
            if *steps != usize::MAX {
                replace(child, steps, with);
            }
        }),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_json_is_safe(value in any_json()) {
        check(value.to_string().as_bytes())?;
    }

    #[test]
    fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&bytes)?;
    }

    #[test]
    fn damaged_bytes_of_real_requests_are_safe(
        seed in any::<proptest::sample::Index>(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0u8..3), 1..12),
    ) {
        let mut bytes = seed.get(seeds()).clone().into_bytes();
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len().max(1));
            match kind {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => { bytes.remove(at); }
                2 => bytes.truncate(at),
                _ => bytes.insert(at.min(bytes.len()), byte),
            }
        }
        check(&bytes)?;
    }

    #[test]
    fn strange_values_in_real_requests_are_safe(
        seed in any::<proptest::sample::Index>(),
        edits in proptest::collection::vec((0usize..80, any_json()), 1..4),
    ) {
        let mut value: Value = serde_json::from_str(seed.get::<String>(seeds())).unwrap();
        for (at, with) in edits {
            let mut steps = at;
            replace(&mut value, &mut steps, &with);
        }
        check(value.to_string().as_bytes())?;
    }
}

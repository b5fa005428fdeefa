//! Every series stands at zero from the start, with proper names.

use longbow::meters::{Endpoint, Label as _, Meters, NoBid, Stage, StageTimes, StatusClass};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// `(metric, type)` and every sample line.
fn parse(text: &str) -> (BTreeMap<&str, &str>, Vec<(&str, f64)>) {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    (
        types,
        samples.map(|line| line.rsplit_once(' ').map(|(series, v)| (series, v.parse().unwrap())).unwrap()).collect(),
    )
}

#[test]
fn all_series_are_there_at_zero() {
    let meters = Meters::new();
    let text = meters.render();
    let (types, samples) = parse(&text);
    for (name, kind) in &types {
        assert!(name.starts_with("longbow_"), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name} is a {kind}");
        assert!(!name.contains("_ms") && !name.contains("_micros"), "{name}: base units only");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    for (series, value) in &samples {
        let own =
            ["longbow_process_", "longbow_recall_ratio", "longbow_scrapes_total"].iter().any(|p| series.starts_with(p));
        assert!(own || *value == 0.0, "{series} is {value}");
    }
    let count = |prefix: &str| samples.iter().filter(|(series, _)| series.starts_with(prefix)).count();
    assert_eq!(count("longbow_requests_total{"), Endpoint::ALL.len() * StatusClass::ALL.len());
    assert_eq!(count("longbow_no_bids_total{"), NoBid::ALL.len());
    assert_eq!(count("longbow_stage_seconds_count{"), Stage::ALL.len());
    assert!(text.contains("longbow_stage_seconds_bucket{stage=\"parse\",le=\"0.00005\"} 0"), "buckets start at 50 us");
    assert!(text.contains("longbow_batch_rows_bucket{le=\"2048\"} 0"));
    assert!(text.contains("longbow_poisoned{room=\"ledger\"} 0"));
    assert!(samples.iter().any(|(series, value)| *series == "longbow_process_resident_bytes" && *value > 1e6));
}

#[test]
fn what_is_counted_shows() {
    let meters = Meters::new();
    meters.requests.of(Endpoint::Bid, StatusClass::NoContent).increment(2);
    meters.no_bids.of(NoBid::BelowFloor).increment(1);
    let start = Instant::now();
    let mut times = StageTimes::from(start);
    times.end(Stage::Parse, start + Duration::from_micros(60));
    times.add(Stage::Encode, Duration::from_millis(4));
    times.skip_to(start + Duration::from_millis(5));
    times.end(Stage::Retrieve, start + Duration::from_millis(6));
    times.finish(start + Duration::from_millis(7), &meters);
    assert_eq!(times.header(), "parse;dur=0.060, encode;dur=4.000, retrieve;dur=1.000, total;dur=7.000");
    let text = meters.render();
    assert!(text.contains("longbow_requests_total{endpoint=\"bid\",status=\"204\"} 2"));
    assert!(text.contains("longbow_no_bids_total{reason=\"below_floor\"} 1"));
    assert!(text.contains("longbow_stage_seconds_bucket{stage=\"parse\",le=\"0.00005\"} 0"));
    assert!(text.contains("longbow_stage_seconds_bucket{stage=\"parse\",le=\"0.0001\"} 1"));
    assert!(text.contains("longbow_stage_seconds_count{stage=\"load\"} 0"), "a stage that did not run is not counted");
}

/// docs/reference.md names every metric, every value of a label and every reason, and no metric that is not there.
#[test]
fn the_reference_names_what_there_is() {
    let text = include_str!("../../../docs/reference.md");
    let told: BTreeSet<&str> = text.split('`').skip(1).step_by(2).collect();
    let meters = Meters::new();
    let before = meters.render();
    for (series, _) in parse(&before).1.into_iter().filter(|(series, _)| !series.contains("le=\"")) {
        for value in series.split('"').skip(1).step_by(2) {
            assert!(told.contains(value), "{series}: `{value}` is not in docs/reference.md");
        }
    }
    meters.show_model("name", "version", true);
    let all = meters.render();
    let metrics: BTreeSet<&str> = parse(&all).0.into_keys().collect();
    assert_eq!(told.iter().copied().filter(|word| word.starts_with("longbow_")).collect::<BTreeSet<_>>(), metrics);
}

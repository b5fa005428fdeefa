//! Makes described handles in one registry.

use super::labels::Label;
use super::{ByLabel, ByLabels};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

/// Upper bounds of the buckets of times, in seconds. Requests take milliseconds, stages from 50 microseconds.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_35, 0.000_5, 0.000_75, 0.001, 0.001_5, 0.002, 0.003, 0.004, 0.005, 0.007_5, 0.01,
    0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Upper bounds of the buckets of counts.
const SIZES: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 2_048.0, 4_096.0, 8_192.0, 16_384.0, 65_536.0,
];
/// Names of histograms of counts end so.
const SIZE_SUFFIXES: &[&str] = &["_requests", "_rows"];

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

pub(super) struct Bank {
    pub(super) recorder: PrometheusRecorder,
}

impl Bank {
    pub(super) fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        // Only an empty list of buckets is refused, and these are not: the builder comes back either way.
        for suffix in SIZE_SUFFIXES {
            let matcher = Matcher::Suffix((*suffix).to_owned());
            builder = builder.set_buckets_for_metric(matcher, SIZES).unwrap_or_default();
        }
        builder = builder.set_buckets(SECONDS).unwrap_or_default();
        Self { recorder: builder.build_recorder() }
    }

    fn counter_of(&self, key: &Key) -> Counter {
        // The exporter shows a counter once it is registered; adding nothing makes that independent of its inner workings.
        let counter = self.recorder.register_counter(key, &METADATA);
        counter.increment(0);
        counter
    }

    fn gauge_of(&self, key: &Key) -> Gauge {
        let gauge = self.recorder.register_gauge(key, &METADATA);
        gauge.set(0.0);
        gauge
    }

    fn histogram_of(&self, key: &Key) -> Histogram {
        self.recorder.register_histogram(key, &METADATA)
    }

    fn help(doc: &'static str) -> SharedString {
        SharedString::const_str(doc)
    }

    pub(super) fn counter(&self, name: &'static str, doc: &'static str) -> Counter {
        self.recorder.describe_counter(KeyName::from_const_str(name), None, Self::help(doc));
        self.counter_of(&Key::from_static_name(name))
    }

    pub(super) fn counters<L: Label>(
        &self,
        name: &'static str,
        label: &'static str,
        doc: &'static str,
    ) -> ByLabel<L, Counter> {
        self.recorder.describe_counter(KeyName::from_const_str(name), None, Self::help(doc));
        ByLabel::new(|value: &'static L| self.counter_of(&keyed(name, &[(label, value.name())])))
    }

    pub(super) fn counters2<A: Label, B: Label>(
        &self,
        name: &'static str,
        first: &'static str,
        second: &'static str,
        doc: &'static str,
    ) -> ByLabels<A, B, Counter> {
        self.recorder.describe_counter(KeyName::from_const_str(name), None, Self::help(doc));
        ByLabels::new(|a: &'static A, b: &'static B| {
            self.counter_of(&keyed(name, &[(first, a.name()), (second, b.name())]))
        })
    }

    pub(super) fn gauge(&self, name: &'static str, doc: &'static str) -> Gauge {
        self.recorder.describe_gauge(KeyName::from_const_str(name), None, Self::help(doc));
        self.gauge_of(&Key::from_static_name(name))
    }

    pub(super) fn gauges<L: Label>(
        &self,
        name: &'static str,
        label: &'static str,
        doc: &'static str,
    ) -> ByLabel<L, Gauge> {
        self.recorder.describe_gauge(KeyName::from_const_str(name), None, Self::help(doc));
        ByLabel::new(|value: &'static L| self.gauge_of(&keyed(name, &[(label, value.name())])))
    }

    pub(super) fn histogram(&self, name: &'static str, doc: &'static str) -> Histogram {
        self.recorder.describe_histogram(KeyName::from_const_str(name), None, Self::help(doc));
        self.histogram_of(&Key::from_static_name(name))
    }

    /// A histogram of counts: its name must end as [`SIZE_SUFFIXES`] says.
    pub(super) fn sizes(&self, name: &'static str, doc: &'static str) -> Histogram {
        debug_assert!(SIZE_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)));
        self.histogram(name, doc)
    }

    pub(super) fn histograms<L: Label>(
        &self,
        name: &'static str,
        label: &'static str,
        doc: &'static str,
    ) -> ByLabel<L, Histogram> {
        self.recorder.describe_histogram(KeyName::from_const_str(name), None, Self::help(doc));
        ByLabel::new(|value: &'static L| self.histogram_of(&keyed(name, &[(label, value.name())])))
    }
}

/// The gauge of one version of a model: the only series that are not there from the start.
pub(super) fn model_info(recorder: &PrometheusRecorder, name: &str, version: &str) -> Gauge {
    const NAME: &str = "longbow_model_info";
    recorder.describe_gauge(KeyName::from_const_str(NAME), None, Bank::help("1 for the model that serves."));
    let label = |key: &'static str, value: &str| metrics::Label::new(key, value.to_owned());
    let key = Key::from_parts(NAME, vec![label("name", name), label("version", version)]);
    recorder.register_gauge(&key, &METADATA)
}

fn keyed(name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
    let labels: Vec<_> = labels.iter().map(|&(name, value)| metrics::Label::from_static_parts(name, value)).collect();
    Key::from_parts(name, labels)
}

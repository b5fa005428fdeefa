//! Where the microseconds of a warm request go.

use std::time::Duration;

use longbow_model::Stage;

use crate::out;

/// Calls of a request.
const CALLS: [&str; 3] = ["advance", "finish", "score"];
const STAGES: usize = Stage::ALL.len();

/// One warm request: time of each call by stage, and the whole of each call.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Split {
    pub(super) stages: [[Duration; STAGES]; CALLS.len()],
    pub(super) whole: [Duration; CALLS.len()],
}

/// Microseconds of one stage in each call.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Row {
    stage: &'static str,
    advance_us: f64,
    finish_us: f64,
    score_us: f64,
    share: f64,
}

/// Medians of each stage in each call; what the calls took outside the stages is the "rest".
pub(super) fn rows(splits: &[Split]) -> Vec<Row> {
    let median =
        |of: &dyn Fn(&Split) -> Duration| out::median(splits.iter().map(|s| of(s).as_secs_f64() * 1e6).collect());
    let whole: Vec<f64> = (0..CALLS.len()).map(|call| median(&|s| s.whole[call])).collect();
    let total: f64 = whole.iter().sum();
    let mut rows: Vec<Row> = Vec::with_capacity(STAGES + 2);
    let mut push = |stage, us: &[f64]| {
        let share = us.iter().sum::<f64>() / total;
        rows.push(Row { stage, advance_us: us[0], finish_us: us[1], score_us: us[2], share });
    };
    for (at, stage) in Stage::ALL.iter().enumerate() {
        let us: Vec<f64> = (0..CALLS.len()).map(|call| median(&|s| s.stages[call][at])).collect();
        push(stage.name(), &us);
    }
    let rest = |s: &Split, call: usize| s.whole[call].saturating_sub(s.stages[call].iter().sum());
    let us: Vec<f64> = (0..CALLS.len()).map(|call| median(&|s| rest(s, call))).collect();
    push("rest", &us);
    push("total", &whole);
    rows
}

/// Prints them.
pub(super) fn show(rows: &[Row], n: u32) {
    out::line(format!("a warm request behind {n} events, stage by stage; medians, microseconds"));
    let cell = |us: f64| format!("{us:.1}");
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            let share = format!("{:.1}%", r.share * 100.0);
            vec![r.stage.to_owned(), cell(r.advance_us), cell(r.finish_us), cell(r.score_us), share]
        })
        .collect();
    out::table(&["", CALLS[0], CALLS[1], CALLS[2], "share"], &rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_and_rest_add_up_to_the_whole() {
        let us = Duration::from_micros;
        let stages = [[us(1), us(2), us(3), us(4), us(0), us(0)], [us(5); STAGES], [us(0); STAGES]];
        let splits = [Split { stages, whole: [us(12), us(30), us(8)] }];
        let rows = rows(&splits);
        assert_eq!(rows.len(), STAGES + 2);
        assert_eq!((rows[1].stage, rows[1].advance_us, rows[1].finish_us), ("project", 2.0, 5.0));
        let rest = &rows[STAGES];
        assert_eq!((rest.stage, rest.advance_us, rest.finish_us, rest.score_us), ("rest", 2.0, 0.0, 8.0));
        let shares: f64 = rows[..=STAGES].iter().map(|row| row.share).sum();
        assert!((shares - 1.0).abs() < 1e-9 && (rows[STAGES + 1].share - 1.0).abs() < 1e-9);
    }
}

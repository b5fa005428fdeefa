//! The planner against a naive model: random pushes, cancellations, seals and time steps.

use longbow::batch::cost::{CostModel, Line, Work};
use longbow::batch::plan::{Batch, Dropped, Job, Lane, Payload, PlanLimits, Planner, Refused, Size, Urgency};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// One row is one millisecond, a batch costs one more.
fn cost() -> CostModel {
    CostModel { encode: Line::new(1.0, 1.0, 0.0), score: Line::new(1.0, 1.0, 0.0) }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn rows(rows: u64) -> Work {
    Work { rows, ..Work::NONE }
}

#[derive(Clone, Debug)]
struct Task {
    rows: Rc<Cell<u64>>,
    fallback: Option<u64>,
    cancelled: Rc<Cell<bool>>,
}

impl Task {
    fn new(rows: u64) -> Self {
        Self { rows: Rc::new(Cell::new(rows)), fallback: None, cancelled: Rc::default() }
    }
}

impl Payload for Task {
    type Context = ();

    fn cancelled(&self) -> bool {
        self.cancelled.get()
    }

    fn size(&mut self, (): &(), slack: Option<Duration>, cost: &CostModel) -> Size {
        let fits = |n: u64| slack.is_none_or(|slack| cost.predict(rows(n)) <= slack);
        match (self.rows.get(), self.fallback) {
            (0, _) => Size::Nothing,
            (n, _) if fits(n) => Size::Work(rows(n)),
            (_, Some(n)) if fits(n) => {
                self.rows.set(n);
                Size::Work(rows(n))
            }
            _ => Size::Refuse,
        }
    }
}

fn limits() -> PlanLimits {
    PlanLimits {
        requests_max: 12,
        background_max: 4,
        batch_jobs_max: 5,
        batch_max: ms(9),
        slice: ms(6),
        reply_margin: ms(2),
        ..PlanLimits::default()
    }
}

fn ids(batch: &Batch<Task>) -> Vec<u64> {
    batch.jobs.iter().map(|job| job.id).collect()
}

#[test]
fn a_full_queue_and_a_near_deadline_are_refused_at_once() {
    let (now, cost) = (Instant::now(), cost());
    let mut planner = Planner::new(limits());
    let refused = planner.push(Task::new(1), now + ms(3), now, &cost).unwrap_err().1;
    assert_eq!(refused, Refused::DeadlineTooNear, "3 ms less the margin is what an empty batch costs");
    for _ in 0..12 {
        planner.push(Task::new(1), now + ms(100), now, &cost).unwrap();
    }
    assert_eq!(planner.push(Task::new(1), now + ms(100), now, &cost).unwrap_err().1, Refused::QueueFull);
}

#[test]
fn everything_that_waits_is_sealed_together_in_order_of_deadlines() {
    let (now, cost) = (Instant::now(), cost());
    let mut planner = Planner::new(limits());
    let late = planner.push(Task::new(2), now + ms(90), now, &cost).unwrap();
    let soon = planner.push(Task::new(2), now + ms(50), now, &cost).unwrap();
    let batch = planner.seal(now, &cost, &());
    assert_eq!((batch.lane, ids(&batch)), (Lane::Short, vec![soon, late]));
}

#[test]
fn the_newest_goes_first_once_the_queue_is_older_than_its_deadlines() {
    let (now, cost) = (Instant::now(), cost());
    let mut planner = Planner::new(limits());
    let pushed: Vec<u64> =
        (0..6).map(|i| planner.push(Task::new(4), now + ms(14 + i), now + ms(i), &cost).unwrap()).collect();
    let batch = planner.seal(now + ms(6), &cost, &());
    assert_eq!(batch.jobs[0].id, pushed[5]);
}

#[test]
fn long_work_takes_turns_with_short_work_and_background_waits_for_both() {
    let (now, cost) = (Instant::now(), cost());
    let mut planner = Planner::new(limits());
    planner.push_background(1, Urgency::Events, Task::new(3), now).unwrap();
    planner.push(Task::new(50), now + ms(900), now, &cost).unwrap();
    for _ in 0..4 {
        planner.push(Task::new(5), now + ms(500), now, &cost).unwrap();
    }
    let mut lanes = Vec::new();
    for _ in 0..7 {
        let batch = planner.seal(now, &cost, &());
        lanes.push(batch.lane);
        for job in batch.jobs {
            if job.payload.rows.get() > 20 {
                job.payload.rows.set(job.payload.rows.get() - 20);
                planner.resume(job);
            }
        }
    }
    use Lane::{Background, Long, Short};
    assert_eq!(lanes, [Short, Long, Short, Long, Short, Long, Short]);
    assert_eq!(planner.seal(now, &cost, &()).lane, Background);
    assert!(planner.is_empty());
}

#[test]
fn background_work_is_single_flight_by_user_and_most_urgent_first() {
    let (now, cost) = (Instant::now(), cost());
    let mut planner = Planner::new(limits());
    for user in 1..=4 {
        planner.push_background(user, Urgency::Predicted, Task::new(1), now).unwrap();
    }
    assert_eq!(planner.push_background(5, Urgency::Degraded, Task::new(1), now).unwrap_err().1, Refused::QueueFull);
    let urgent = planner.push_background(3, Urgency::Degraded, Task::new(2), now).unwrap();
    let kept = planner.push_background(3, Urgency::Predicted, Task::new(7), now).unwrap();
    assert_eq!(planner.background(), 4);
    let batch = planner.seal(now, &cost, &());
    assert_ne!(urgent, kept);
    assert_eq!(ids(&batch), [kept], "the newer window, with the more urgent reason");
    assert_eq!(batch.jobs[0].work, rows(7));
}

#[derive(Clone, Debug)]
enum Op {
    Push { slack_ms: u64, rows: u64, fallback: Option<u64> },
    Background { user: u128, urgency: Urgency, rows: u64 },
    Cancel(prop::sample::Index),
    Step(u64),
    Seal,
}

fn op() -> impl Strategy<Value = Op> {
    let urgency = prop_oneof![Just(Urgency::Degraded), Just(Urgency::Events), Just(Urgency::Predicted)];
    prop_oneof![
        5 => (0u64..120, 0u64..30, prop::option::of(1u64..4))
            .prop_map(|(slack_ms, rows, fallback)| Op::Push { slack_ms, rows, fallback }),
        2 => (0u128..7, urgency, 0u64..30).prop_map(|(user, urgency, rows)| Op::Background { user, urgency, rows }),
        1 => any::<prop::sample::Index>().prop_map(Op::Cancel),
        2 => (0u64..15).prop_map(Op::Step),
        4 => Just(Op::Seal),
    ]
}

/// The naive model: what waits, as a flat list.
struct Known {
    deadline: Option<Instant>,
    user: Option<u128>,
    task: Task,
}

struct World {
    planner: Planner<Task>,
    waiting: BTreeMap<u64, Known>,
    now: Instant,
    slice_rows: u64,
}

impl World {
    fn requests(&self) -> usize {
        self.waiting.values().filter(|k| k.user.is_none()).count()
    }

    fn push(&mut self, task: Task, slack: Duration) {
        let deadline = self.now + slack;
        let full = self.requests() >= limits().requests_max;
        let near = slack.saturating_sub(limits().reply_margin) <= ms(1);
        match self.planner.push(task.clone(), deadline, self.now, &cost()) {
            Ok(id) => {
                assert!(!full && !near);
                let known = Known { deadline: Some(deadline), user: None, task };
                assert!(self.waiting.insert(id, known).is_none(), "ids are unique");
            }
            Err((_, Refused::QueueFull)) => assert!(full),
            Err((_, Refused::DeadlineTooNear)) => assert!(near && !full),
        }
    }

    fn push_background(&mut self, user: u128, urgency: Urgency, task: Task) {
        let before: Vec<u64> = self.waiting.iter().filter(|(_, k)| k.user == Some(user)).map(|(&id, _)| id).collect();
        let full = before.is_empty() && self.waiting.len() - self.requests() >= limits().background_max;
        match self.planner.push_background(user, urgency, task.clone(), self.now) {
            Ok(id) => {
                assert!(!full);
                assert!(before.len() <= 1, "one entry a user");
                for old in before {
                    self.waiting.remove(&old);
                }
                self.waiting.insert(id, Known { deadline: None, user: Some(user), task });
            }
            Err((_, refused)) => assert!(full && refused == Refused::QueueFull),
        }
    }

    fn seal(&mut self) {
        let batch = self.planner.seal(self.now, &cost(), &());
        for (job, why) in &batch.dropped {
            let known = self.waiting.remove(&job.id).expect("dropped jobs were waiting, once");
            let passed = known.deadline.is_some_and(|deadline| self.now >= deadline);
            match why {
                Dropped::Cancelled => assert!(known.task.cancelled.get()),
                Dropped::Expired => assert!(passed),
                Dropped::TooLate | Dropped::Crowded => assert!(known.deadline.is_some() && !passed),
                Dropped::Nothing => assert_eq!(known.task.rows.get(), 0),
            }
        }
        self.check_batch(&batch);
        for job in batch.jobs {
            self.run(job, batch.lane);
        }
        assert_eq!(self.planner.requests(), self.requests());
        assert_eq!(self.planner.requests() + self.planner.background(), self.waiting.len(), "nothing is lost");
    }

    fn check_batch(&self, batch: &Batch<Task>) {
        for (id, known) in &self.waiting {
            let dead = known.task.cancelled.get() || known.deadline.is_some_and(|deadline| self.now >= deadline);
            assert!(!dead || known.user.is_some(), "job {id} should have been dropped");
        }
        let mut total = ms(1);
        for job in &batch.jobs {
            let known = self.waiting.get(&job.id).expect("sealed jobs were waiting, once");
            assert!(!known.task.cancelled.get());
            assert_eq!(known.user.is_some(), batch.lane == Lane::Background);
            total += cost().marginal(job.work);
            let whole = cost().predict(job.work);
            let slack = known.deadline.map(|d| d.saturating_duration_since(self.now).saturating_sub(ms(2)));
            assert!(slack.is_none_or(|slack| whole <= slack), "would be late even alone");
            assert!((whole <= limits().slice) == (batch.lane == Lane::Short) || batch.lane == Lane::Background);
            if batch.jobs.len() > 1 {
                assert!(slack.is_none_or(|slack| total <= slack), "would be late behind those before it");
            }
        }
        match batch.lane {
            Lane::Short => {
                assert!(batch.jobs.len() <= limits().batch_jobs_max);
                assert!(batch.jobs.len() <= 1 || total <= limits().batch_max);
                self.check_order(batch);
            }
            Lane::Long => assert!(batch.jobs.len() <= 1),
            Lane::Background => {
                assert!(batch.jobs.len() <= 1);
                assert_eq!(self.requests(), 0, "requests go first");
            }
        }
        assert!(!batch.jobs.is_empty() || self.waiting.is_empty(), "an idle device with work waiting");
    }

    /// In order of deadlines; or newest first, and then only if the order of deadlines would have made some job late.
    fn check_order(&self, batch: &Batch<Task>) {
        let by_deadline = batch.jobs.is_sorted_by_key(|job| (job.deadline, job.id));
        let newest_first = batch.jobs.is_sorted_by_key(|job| std::cmp::Reverse((job.arrived, job.id)));
        assert!(by_deadline || newest_first);
        let first = batch.jobs.first().and_then(|job| job.deadline);
        let passed_over = self.waiting.iter().any(|(id, known)| {
            let rows_left = known.task.rows.get();
            known.user.is_none()
                && ms(rows_left) < limits().slice
                && known.deadline < first
                && !batch.jobs.iter().any(|job| job.id == *id)
        });
        if passed_over {
            assert!(newest_first, "only overload lets a later deadline go first");
            let all: u64 = self.waiting.values().filter(|k| k.user.is_none()).map(|k| k.task.rows.get()).sum();
            let least = self.waiting.values().filter_map(|k| k.deadline).min().expect("a request waits");
            assert!(self.now + ms(all + 1) + ms(2) > least, "no overload: everything fits before the first deadline");
        }
    }

    fn run(&mut self, job: Job<Task>, lane: Lane) {
        let left = job.payload.rows.get();
        if lane == Lane::Short || left <= self.slice_rows {
            self.waiting.remove(&job.id);
            return;
        }
        job.payload.rows.set(left - self.slice_rows);
        self.planner.resume(job);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn the_planner_agrees_with_the_naive_model(ops in prop::collection::vec(op(), 1..120)) {
        let start = Instant::now();
        let mut world =
            World { planner: Planner::new(limits()), waiting: BTreeMap::new(), now: start, slice_rows: 5 };
        for op in ops {
            match op {
                Op::Push { slack_ms, rows, fallback } => {
                    world.push(Task { fallback, ..Task::new(rows) }, ms(slack_ms));
                }
                Op::Background { user, urgency, rows } => world.push_background(user, urgency, Task::new(rows)),
                Op::Cancel(index) if !world.waiting.is_empty() => {
                    let known = world.waiting.values().nth(index.index(world.waiting.len())).expect("in range");
                    known.task.cancelled.set(true);
                }
                Op::Cancel(_) => {}
                Op::Step(step_ms) => world.now += ms(step_ms),
                Op::Seal => world.seal(),
            }
        }
        // Whatever is left comes out: every job is run or dropped in the end.
        for _ in 0..1_000 {
            if world.waiting.is_empty() { break }
            world.seal();
            world.now += ms(3);
        }
        prop_assert!(world.waiting.is_empty() && world.planner.is_empty());
    }
}

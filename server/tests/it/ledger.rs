//! The ledger from outside: its rules one by one, and many threads at once.

use crate::ledger_disk::Disk;
use longbow::deadline::{ManualClock, WallClock as _};
use longbow::ids::Id;
use longbow::ledger::{
    AccountId, BidId, BudgetError, ChargeOn, DurableLedger, Ledger, Notice, Options, ReserveError, SettleError,
    Settled, Settlement, Timing,
};
use longbow::money::Micros;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Start of time in these tests, Unix seconds.
pub(crate) const T0: i64 = 1_800_000_000;

pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A ledger on a disk in memory under a clock that stands; sweeps run only when asked for (`flush`).
pub(crate) struct Bench {
    pub(crate) disk: Disk,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) ledger: Ledger,
    pub(crate) options: Options,
}

pub(crate) fn quiet_options() -> Options {
    Options { tick_ms: 3_600_000, hold_max_s: 600, dedupe_s: 7_200, ..Options::default() }
}

impl Bench {
    pub(crate) fn new(options: Options) -> Self {
        Self::on(Disk::new(Vec::new(), true), T0, options)
    }

    pub(crate) fn on(disk: Disk, now: i64, options: Options) -> Self {
        let clock = Arc::new(ManualClock::at_micros(now * 1_000_000));
        let durable = DurableLedger::open_backend(disk.clone()).unwrap();
        let ledger = Ledger::start(durable, options.clone(), Arc::clone(&clock) as _).unwrap();
        Self { disk, clock, ledger, options }
    }

    /// Ends this life (as a crash does, unless the ledger was closed) and starts the next one.
    pub(crate) fn again(self, seed: u64) -> Self {
        let image = self.disk.after_power_cut(seed);
        let (now, options) = (self.now(), self.options.clone());
        drop(self);
        Self::on(Disk::new(image, true), now, options)
    }

    pub(crate) fn now(&self) -> i64 {
        self.clock.seconds()
    }

    pub(crate) fn advance(&self, seconds: i64) {
        self.clock.set_micros((self.now() + seconds) * 1_000_000);
        wait(self.ledger.flush()).unwrap();
    }

    pub(crate) fn budget(&self, plan: &str, micros: i64) -> AccountId {
        wait(self.ledger.set_budget(&Id::from(plan), Micros(micros))).unwrap()
    }

    pub(crate) fn reserve(&self, account: AccountId, bid: u128, amount: i64, seconds: i64) -> Result<(), ReserveError> {
        self.ledger.reserve(account, BidId(bid), Micros(amount), self.now() + seconds)
    }

    /// Like `reserve`, with the refill that a first large bid on a small budget needs.
    pub(crate) fn hold(&self, account: AccountId, bid: u128, amount: i64, seconds: i64) {
        if self.reserve(account, bid, amount, seconds) == Err(ReserveError::PoolEmpty) {
            wait(self.ledger.flush()).unwrap();
            self.reserve(account, bid, amount, seconds).unwrap();
        }
    }

    pub(crate) fn settle(
        &self,
        account: AccountId,
        bid: u128,
        price: i64,
        bid_amount: i64,
    ) -> Result<Settled, SettleError> {
        wait(self.ledger.settle(settlement(account, bid, price, bid_amount, self.now())))
    }

    pub(crate) fn columns(&self, account: AccountId) -> [i64; 4] {
        let balance = self.ledger.balance(account).unwrap();
        [balance.granted.0, balance.held.0, balance.spent.0, balance.free.0]
    }
}

pub(crate) fn settlement(account: AccountId, bid: u128, price: i64, bid_amount: i64, issued_at: i64) -> Settlement {
    let (price, bid_amount) = (Micros(price), Micros(bid_amount));
    Settlement { account, bid: BidId(bid), notice: Notice::Win, price, bid_amount, issued_at }
}

const ON_TIME: Result<Settled, SettleError> = Ok(Settled::Charged { timing: Timing::OnTime });
const LATE: Result<Settled, SettleError> = Ok(Settled::Charged { timing: Timing::Late });

#[test]
fn a_bid_holds_settles_and_releases() {
    let bench = Bench::new(quiet_options());
    let plan = bench.budget("shoes", 10_000);
    assert_eq!(bench.columns(plan), [10_000, 0, 0, 10_000]);
    bench.reserve(plan, 1, 300, 60).unwrap();
    bench.reserve(plan, 2, 200, 60).unwrap();
    assert_eq!(bench.columns(plan), [10_000, 500, 0, 9_500]);
    assert_eq!(bench.reserve(plan, 2, 200, 60), Err(ReserveError::DuplicateBid));
    assert_eq!(bench.settle(plan, 1, 250, 300), ON_TIME);
    assert_eq!(bench.columns(plan), [10_000, 200, 250, 9_550]);
    // Again, at another price: nothing happens.
    assert_eq!(bench.settle(plan, 1, 260, 300), Ok(Settled::Duplicate { first_price: Micros(250) }));
    assert_eq!(bench.ledger.release(plan, BidId(2)), Some(Micros(200)));
    assert_eq!(bench.ledger.release(plan, BidId(2)), None);
    assert_eq!(bench.columns(plan), [10_000, 0, 250, 9_750]);
    assert_eq!(bench.ledger.free_hint(plan), Micros(9_750));
    assert!(bench.ledger.audit().is_empty());
}

#[test]
fn refusals_are_typed() {
    let bench = Bench::new(quiet_options());
    let plan = bench.budget("shoes", 10_000);
    assert_eq!(bench.reserve(plan, 1, 0, 60), Err(ReserveError::BadAmount));
    assert_eq!(bench.reserve(plan, 1, 5, 0), Err(ReserveError::BadExpiry));
    assert_eq!(bench.reserve(plan, 1, 5, 601), Err(ReserveError::BadExpiry));
    assert_eq!(bench.reserve(AccountId(9), 1, 5, 60), Err(ReserveError::UnknownAccount));
    assert_eq!(bench.reserve(plan, 1, 10_001, 60), Err(ReserveError::BudgetSpent));
    bench.reserve(plan, 1, 100, 60).unwrap();
    assert_eq!(bench.settle(plan, 1, -1, 100), Err(SettleError::BadPrice(Micros(-1))));
    let above = SettleError::PriceAboveBid { price: Micros(101), bid: Micros(100) };
    assert_eq!(bench.settle(plan, 1, 101, 100), Err(above.clone()));
    // A notice that claims a higher bid than the hold is refused too.
    assert_eq!(bench.settle(plan, 1, 101, 500), Err(above));
    assert_eq!(bench.settle(AccountId(9), 1, 5, 100), Err(SettleError::UnknownAccount));
    let old = settlement(plan, 1, 50, 100, T0 - 7_200);
    assert_eq!(wait(bench.ledger.settle(old)), Err(SettleError::TooOld(7_200)));
    assert_eq!(bench.columns(plan), [10_000, 100, 0, 9_900]);
    assert_eq!(bench.settle(plan, 1, 100, 100), ON_TIME);
    let shoes = Id::from("shoes");
    assert_eq!(wait(bench.ledger.set_budget(&shoes, Micros(-1))), Err(BudgetError::BadAmount { plan: shoes.clone() }));
}

#[test]
fn budgets_go_up_and_down_to_what_is_committed() {
    let bench = Bench::new(quiet_options());
    let plan = bench.budget("shoes", 10_000);
    bench.reserve(plan, 1, 400, 60).unwrap();
    bench.reserve(plan, 2, 100, 60).unwrap();
    bench.settle(plan, 2, 70, 100).unwrap();
    let below = wait(bench.ledger.set_budget(&Id::from("shoes"), Micros(469)));
    assert_eq!(below, Err(BudgetError::BelowCommitted { plan: Id::from("shoes"), lowest: Micros(470) }));
    assert_eq!(bench.columns(plan), [10_000, 400, 70, 9_530]);
    bench.budget("shoes", 470);
    assert_eq!(bench.columns(plan), [470, 400, 70, 0]);
    assert_eq!(bench.reserve(plan, 3, 1, 60), Err(ReserveError::BudgetSpent));
    bench.budget("shoes", 20_000);
    assert_eq!(bench.columns(plan), [20_000, 400, 70, 19_530]);
    bench.reserve(plan, 3, 900, 60).unwrap();
}

#[test]
fn late_wins_are_always_charged_and_what_goes_over_is_shown_and_paid_back_first() {
    let bench = Bench::new(quiet_options());
    let plan = bench.budget("shoes", 1_000);
    bench.hold(plan, 1, 600, 10);
    bench.advance(10);
    assert_eq!(bench.columns(plan), [1_000, 0, 0, 1_000]);
    bench.hold(plan, 2, 700, 60);
    assert_eq!(bench.settle(plan, 1, 600, 600), LATE);
    let balance = bench.ledger.balance(plan).unwrap();
    assert_eq!((balance.late.0, balance.late_over.0), (600, 300));
    assert_eq!(bench.columns(plan), [1_000, 700, 300, 0]);
    assert_eq!(bench.reserve(plan, 3, 1, 60), Err(ReserveError::BudgetSpent));
    // The released hold pays the debt before anything else.
    bench.ledger.release(plan, BidId(2)).unwrap();
    bench.advance(0);
    let balance = bench.ledger.balance(plan).unwrap();
    assert_eq!((balance.late.0, balance.late_over.0), (600, 0));
    assert_eq!(bench.columns(plan), [1_000, 0, 600, 400]);
    // A release, then a win all the same.
    bench.hold(plan, 4, 50, 60);
    bench.ledger.release(plan, BidId(4)).unwrap();
    assert_eq!(bench.settle(plan, 4, 50, 50), LATE);
    assert_eq!(bench.columns(plan), [1_000, 0, 650, 350]);
}

#[test]
fn a_crash_keeps_the_whole_pool_held_until_the_longest_hold_is_over() {
    let bench = Bench::new(quiet_options());
    let plan = bench.budget("shoes", 100_000);
    bench.reserve(plan, 1, 1_000, 600).unwrap();
    bench.settle(plan, 1, 900, 1_000).unwrap();
    bench.reserve(plan, 2, 2_000, 600).unwrap();
    let held = bench.ledger.record(plan).unwrap().held;
    assert!(held >= 2_000);
    let bench = bench.again(1);
    let plan = bench.ledger.account(&Id::from("shoes")).unwrap();
    let balance = bench.ledger.balance(plan).unwrap();
    assert_eq!((balance.recovered.0, balance.spent.0), (held, 900));
    assert_eq!(bench.columns(plan), [100_000, held, 900, 100_000 - held - 900]);
    // Bidding goes on with what is free, and the lost hold's win finds its money.
    bench.reserve(plan, 3, 500, 60).unwrap();
    let after_restart = Ok(Settled::Charged { timing: Timing::AfterRestart });
    assert_eq!(bench.settle(plan, 2, 2_000, 2_000), after_restart);
    assert_eq!(bench.settle(plan, 1, 900, 1_000), Ok(Settled::Duplicate { first_price: Micros(900) }));
    let balance = bench.ledger.balance(plan).unwrap();
    assert_eq!((balance.recovered.0, balance.late.0, balance.late_over.0), (held - 2_000, 2_000, 0));
    bench.advance(599);
    assert_eq!(bench.ledger.balance(plan).unwrap().recovered.0, held - 2_000);
    bench.advance(1);
    assert_eq!(bench.columns(plan), [100_000, 0, 2_900, 97_100]);
}

#[test]
fn a_planned_end_keeps_open_holds() {
    let bench = Bench::new(quiet_options());
    let plan = bench.budget("shoes", 100_000);
    bench.reserve(plan, 1, 1_000, 600).unwrap();
    wait(bench.ledger.close()).unwrap();
    assert_eq!(bench.reserve(plan, 2, 1, 60), Err(ReserveError::Poisoned));
    assert!(matches!(bench.settle(plan, 1, 1, 1_000), Err(SettleError::Poisoned(_))));
    let bench = bench.again(2);
    let plan = bench.ledger.account(&Id::from("shoes")).unwrap();
    assert_eq!(bench.columns(plan), [100_000, 1_000, 0, 99_000]);
    assert_eq!(bench.ledger.balance(plan).unwrap().recovered, Micros::ZERO);
    assert_eq!(bench.settle(plan, 1, 800, 1_000), ON_TIME);
    // The rows are gone after the start that read them: a crash now does not bring hold 1 back.
    let bench = bench.again(3);
    let plan = bench.ledger.account(&Id::from("shoes")).unwrap();
    assert_eq!(bench.settle(plan, 1, 800, 1_000), Ok(Settled::Duplicate { first_price: Micros(800) }));
}

#[test]
fn where_the_billing_notice_charges_a_win_keeps_the_hold() {
    let bench = Bench::new(Options { charge_on: ChargeOn::Billing, ..quiet_options() });
    let plan = bench.budget("shoes", 10_000);
    bench.reserve(plan, 1, 300, 10).unwrap();
    assert_eq!(bench.settle(plan, 1, 250, 300), Ok(Settled::Noted));
    bench.advance(500);
    assert_eq!(bench.columns(plan), [10_000, 300, 0, 9_700]);
    let billing = Settlement { notice: Notice::Billing, ..settlement(plan, 1, 250, 300, T0) };
    assert_eq!(wait(bench.ledger.settle(billing)), ON_TIME);
    assert_eq!(bench.columns(plan), [10_000, 0, 250, 9_750]);
}

#[test]
fn settled_bids_are_forgotten_only_when_their_notices_are_refused() {
    let bench = Bench::new(quiet_options());
    let plan = bench.budget("shoes", 10_000);
    bench.reserve(plan, 1, 300, 60).unwrap();
    let notice = settlement(plan, 1, 250, 300, T0);
    wait(bench.ledger.settle(notice)).unwrap();
    bench.advance(7_199);
    assert!(matches!(wait(bench.ledger.settle(notice)), Ok(Settled::Duplicate { .. })));
    bench.advance(1);
    assert_eq!(wait(bench.ledger.settle(notice)), Err(SettleError::TooOld(7_200)));
    bench.advance(1);
    assert_eq!(bench.ledger.counters().forgotten.load(Ordering::Relaxed), 1);
    assert_eq!(bench.columns(plan), [10_000, 0, 250, 9_750]);
}

#[test]
fn a_clock_that_jumps_and_comes_back_has_no_bid_charged_twice() {
    let bench = Bench::new(quiet_options());
    let plan = bench.budget("shoes", 100_000);
    bench.reserve(plan, 1, 300, 60).unwrap();
    let notice = settlement(plan, 1, 250, 300, T0);
    assert_eq!(wait(bench.ledger.settle(notice)), ON_TIME);
    bench.advance(40 * 86_400);
    assert_eq!(bench.ledger.counters().forgotten.load(Ordering::Relaxed), 1);
    // The true time again, in this life and in those to come.
    bench.advance(10 - 40 * 86_400);
    assert_eq!(wait(bench.ledger.settle(notice)), Err(SettleError::TooOld(7_200)));
    let mut bench = bench;
    for seed in 0..3 {
        if seed == 2 {
            wait(bench.ledger.close()).unwrap();
        }
        bench = bench.again(seed);
        let plan = bench.ledger.account(&Id::from("shoes")).unwrap();
        assert_eq!(wait(bench.ledger.settle(notice)), Err(SettleError::TooOld(7_200)));
        assert_eq!(bench.ledger.balance(plan).unwrap().spent.0, 250 + 100 * i64::try_from(seed).unwrap());
        // Bids made since are charged: the mark follows what was forgotten, not where the clock went.
        let bid = 2 + u128::from(seed);
        bench.hold(plan, bid, 100, 60);
        assert_eq!(bench.settle(plan, bid, 100, 100), ON_TIME);
    }
}

#[test]
fn the_whole_budget_can_be_spent_and_not_more() {
    let bench = Bench::new(quiet_options());
    let plan = bench.budget("shoes", 10_000);
    let mut spent = 0;
    for bid in 0..1_000 {
        match bench.reserve(plan, bid, 97, 60) {
            Ok(()) => {
                bench.settle(plan, bid, 97, 97).unwrap();
                spent += 97;
            }
            Err(ReserveError::PoolEmpty) => bench.advance(0),
            Err(error) => assert_eq!(error, ReserveError::BudgetSpent),
        }
    }
    assert_eq!(spent, 10_000 / 97 * 97);
    assert_eq!(bench.columns(plan), [10_000, 0, spent, 10_000 - spent]);
}

#[test]
fn a_crash_never_locks_up_more_than_the_open_holds_and_the_pool() {
    let bench = Bench::new(quiet_options());
    let plan = bench.budget("shoes", 1_000_000);
    for bid in 0..1_000u128 {
        bench.hold(plan, bid, 100, 60);
        let open = i64::try_from(100 * (bid + 1)).unwrap();
        // 5% of the budget beside the open holds.
        let held = bench.ledger.record(plan).unwrap().held;
        assert!((open..=open + 50_000).contains(&held), "{held} held for {open} open");
    }
}

#[test]
fn many_threads_never_hold_more_than_the_budget() {
    const BUDGET: i64 = 300_000;
    let options = Options { tick_ms: 1, ..quiet_options() };
    let bench = Arc::new(Bench::new(options));
    let plan = bench.budget("shoes", BUDGET);
    let (spent, released) = (AtomicI64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..8u128 {
            let (bench, spent, released) = (&bench, &spent, &released);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for n in 0..400u128 {
                    let bid = thread * 1_000_000 + n;
                    if bench.reserve(plan, bid, 120, 60).is_err() {
                        std::thread::yield_now();
                        continue;
                    }
                    let balance = bench.ledger.balance(plan).unwrap();
                    assert_eq!(balance.granted.0, balance.held.0 + balance.spent.0 + balance.free.0);
                    assert!(balance.free.0 >= 0 && balance.late_over.0 == 0);
                    if n % 4 == 0 {
                        bench.ledger.release(plan, BidId(bid)).unwrap();
                        released.fetch_add(1, Ordering::Relaxed);
                    } else {
                        let notice = settlement(plan, bid, 110, 120, T0);
                        assert_eq!(runtime.block_on(bench.ledger.settle(notice)), ON_TIME);
                        spent.fetch_add(110, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    bench.advance(0);
    let (spent, counters) = (spent.into_inner(), bench.ledger.counters());
    assert_eq!(bench.columns(plan), [BUDGET, 0, spent, BUDGET - spent]);
    assert!(spent <= BUDGET && spent > BUDGET * 2 / 5, "{spent} of {BUDGET}; {:?}", counters.snapshot());
    assert!(bench.ledger.audit().is_empty());
}

#[test]
fn queue_and_holds_are_bounded() {
    let bench = Bench::new(Options { holds_max: 3, ..quiet_options() });
    let plan = bench.budget("shoes", 100_000);
    for bid in 0..3 {
        bench.reserve(plan, bid, 1, 60).unwrap();
    }
    assert_eq!(bench.reserve(plan, 3, 1, 60), Err(ReserveError::TooManyHolds));
    bench.ledger.release(plan, BidId(0)).unwrap();
    bench.reserve(plan, 3, 1, 60).unwrap();
    bench.advance(60);
    for bid in 4..7 {
        bench.reserve(plan, bid, 1, 60).unwrap();
    }
}

#[test]
fn bid_ids_come_back_from_text_and_grow_with_time() {
    let early = BidId::new(1_000_000, u128::MAX);
    let late = BidId::new(1_001_000, 0);
    assert!(early < late);
    assert_eq!(BidId::parse(&early.to_string()), early);
    assert_ne!(BidId::parse("some other text"), BidId::parse("some other Text"));
    // Upper case is another text: what the exchange sends back must be what was sent.
    assert_ne!(BidId::parse(&early.to_string().to_uppercase()), early);
}

//! The commit thread: takes what waits, stages it as one batch, syncs it, then answers.

use super::batch::Batch;
use super::book::Book;
use super::durable::{DurableLedger, storage};
use super::{AccountId, BudgetError, Counters, Id, Micros, OpenError, RecordFault, SettleError, Settled, Settlement};
use crate::store::poison::PoisonGuard;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub(crate) type Budgets = Vec<Result<AccountId, BudgetError>>;
type Reply<T, E> = oneshot::Sender<Result<T, E>>;

/// What the commit thread is asked to do.
pub(crate) enum Op {
    Settle(Settlement, Reply<Settled, SettleError>),
    Budgets(Vec<(Id, Micros)>, Reply<Budgets, BudgetError>),
    Refill(AccountId),
    Flush(Reply<(), SettleError>),
    Close(Reply<(), SettleError>),
}

/// An answer kept back until the commit it depends on.
enum Answer {
    Settle(Result<Settled, SettleError>, Reply<Settled, SettleError>),
    Budgets(Budgets, Reply<Budgets, BudgetError>),
    Done(Reply<(), SettleError>),
}

impl Answer {
    fn send(self) {
        // A caller that went away needs no answer; its charge stands.
        match self {
            Self::Settle(result, reply) => drop(reply.send(result)),
            Self::Budgets(result, reply) => drop(reply.send(Ok(result))),
            Self::Done(reply) => drop(reply.send(Ok(()))),
        }
    }

    fn send_poisoned(self, reason: &str) {
        match self {
            Self::Settle(_, reply) => drop(reply.send(Err(SettleError::Poisoned(reason.to_owned())))),
            Self::Budgets(_, reply) => drop(reply.send(Err(BudgetError::Poisoned(reason.to_owned())))),
            Self::Done(reply) => drop(reply.send(Err(SettleError::Poisoned(reason.to_owned())))),
        }
    }
}

/// Expiry entries looked at in one sweep, and settled bids forgotten in one.
const SWEEP_STEPS: usize = 20_000;
const FORGET_STEPS: usize = 2_048;

pub(crate) struct Committer {
    book: Arc<Book>,
    durable: DurableLedger,
    /// When the next recovered hold returns.
    recovered_due: Option<i64>,
    /// Bids made before this second may have been charged and forgotten. On disk too, so that no clock and no restart can
    /// have one of them charged again.
    forgotten_before: i64,
}

impl Committer {
    /// Reads the file into the (empty) book: what a dead process held becomes a recovered hold, what a planned end wrote
    /// down becomes open holds again; then fills the pools, all in one commit.
    pub(crate) fn recover(book: Arc<Book>, durable: DurableLedger) -> Result<Self, OpenError> {
        let image = durable.load()?;
        let now = book.clock.seconds();
        let mut open: HashMap<Id, i64> = HashMap::new();
        for (_, plan, hold) in &image.holds {
            *open.entry(plan.clone()).or_default() += hold.amount;
        }
        for (plan, mut record) in image.accounts {
            let known = open.get(&plan).copied().unwrap_or(0);
            if known > record.held - record.recovered_sum() {
                return Err(OpenError::Damaged { plan: plan.to_string(), fault: RecordFault::Unbalanced });
            }
            record.recover(known, now.saturating_add(book.options.hold_max_s));
            let _account =
                book.add(&plan, record).ok_or_else(|| std::io::Error::other("too many plans in the file"))?;
        }
        let clear_holds = !image.holds.is_empty();
        for (bid, plan, hold) in image.holds {
            if let Some(account) = book.account_of(&plan) {
                book.adopt(account, bid, hold);
            }
        }
        let forgotten_before = image.forgotten_before.unwrap_or(i64::MIN);
        let mut this = Self { book, durable, recovered_due: None, forgotten_before };
        this.first_commit(clear_holds).map_err(|cause| storage(this.durable.name(), cause))?;
        this.note_recovered();
        Ok(this)
    }

    fn first_commit(&mut self, clear_holds: bool) -> Result<(), redb::Error> {
        let book = Arc::clone(&self.book);
        let mut batch = Batch::new(&book);
        for number in 0..book.len() {
            batch.touch(AccountId(number), true);
        }
        batch.writes.clear_holds = clear_holds;
        self.commit(batch, false)
    }

    /// Serves until the queue is closed or a planned end.
    pub(crate) fn run(&mut self, waiting: &Receiver<Op>) {
        let book = Arc::clone(&self.book);
        let guard = PoisonGuard::new(&book.poison, "ledger");
        let tick = Duration::from_millis(book.options.tick_ms.max(1));
        let mut swept = Instant::now();
        loop {
            let mut ops = Vec::new();
            match waiting.recv_timeout(tick.saturating_sub(swept.elapsed())) {
                Ok(op) => ops.push(op),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            ops.extend(waiting.try_iter().take(book.options.batch_max.saturating_sub(1)));
            let sweep = swept.elapsed() >= tick || ops.iter().any(|op| matches!(op, Op::Flush(_)));
            if sweep {
                swept = Instant::now();
            }
            if self.turn(ops, sweep) {
                break;
            }
        }
        guard.disarm();
    }

    /// One batch. True when it was the last.
    pub(crate) fn turn(&mut self, ops: Vec<Op>, sweep: bool) -> bool {
        let book = Arc::clone(&self.book);
        let now = book.clock.seconds();
        let mut batch = Batch::new(&book);
        let mut answers = Vec::with_capacity(ops.len());
        let mut closing = false;
        let staged = match book.poison.reason() {
            Some(reason) => Err(reason.to_owned()),
            None => self.stage(&mut batch, &ops, sweep, now).map_err(|e| format!("ledger read: {e}")),
        };
        let (verdicts, staged) = match staged {
            Ok(verdicts) => (verdicts, Ok(())),
            Err(reason) => (Vec::new(), Err(reason)),
        };
        let mut verdicts = verdicts.into_iter();
        for op in ops {
            match op {
                Op::Settle(_, reply) => {
                    let verdict = verdicts.next().unwrap_or_else(|| Err(SettleError::Poisoned(String::new())));
                    answers.push(Answer::Settle(verdict, reply));
                }
                Op::Budgets(budgets, reply) => {
                    let results = budgets.iter().map(|(plan, amount)| batch.budget(plan, *amount)).collect();
                    answers.push(Answer::Budgets(results, reply));
                }
                Op::Refill(account) => batch.touch(account, false),
                Op::Flush(reply) => answers.push(Answer::Done(reply)),
                Op::Close(reply) => {
                    closing = true;
                    answers.push(Answer::Done(reply));
                }
            }
        }
        if closing {
            batch.write_holds();
        }
        let outcome = staged.and_then(|()| self.commit(batch, closing).map_err(|e| format!("ledger commit: {e}")));
        match outcome {
            Ok(()) => answers.into_iter().for_each(Answer::send),
            Err(reason) => {
                book.poison.set(reason.clone());
                answers.into_iter().for_each(|answer| answer.send_poisoned(&reason));
            }
        }
        if sweep && self.recovered_due.is_some() {
            self.note_recovered();
        }
        closing
    }

    /// Stages the sweeps, then the settlements; returns one verdict for each settlement, in order.
    fn stage(
        &mut self,
        batch: &mut Batch<'_>,
        ops: &[Op],
        sweep: bool,
        now: i64,
    ) -> Result<Vec<Result<Settled, SettleError>>, redb::Error> {
        if sweep {
            self.sweep(batch, now)?;
        }
        let settlements: Vec<&Settlement> = ops
            .iter()
            .filter_map(|op| if let Op::Settle(settlement, _) = op { Some(settlement) } else { None })
            .collect();
        if settlements.is_empty() {
            return Ok(Vec::new());
        }
        let bids: Vec<_> = settlements.iter().map(|settlement| settlement.bid).collect();
        let seen = self.durable.settled(&bids)?;
        let verdicts = settlements.into_iter().zip(seen).map(|(settlement, seen)| {
            // Checked again: the clock may have been set back, or its turn in the queue made it too old.
            if seen.is_none() && settlement.issued_at < self.forgotten_before {
                return Err(SettleError::TooOld(self.book.options.dedupe_s));
            }
            batch.settle(settlement, seen, now)
        });
        Ok(verdicts.collect())
    }

    fn sweep(&mut self, batch: &mut Batch<'_>, now: i64) -> Result<(), redb::Error> {
        let mut rebalance = Vec::new();
        self.book.expire(now, SWEEP_STEPS, &mut rebalance);
        for account in rebalance {
            batch.touch(account, false);
        }
        if self.recovered_due.is_some_and(|due| due <= now) {
            for number in 0..self.book.len() {
                batch.return_recovered(AccountId(number), now);
            }
        }
        let limit = now.saturating_sub(self.book.options.dedupe_s);
        if self.durable.has_settled_before(limit)? {
            batch.writes.forget = Some((limit, FORGET_STEPS));
        }
        Ok(())
    }

    fn commit(&mut self, mut batch: Batch<'_>, closing: bool) -> Result<(), redb::Error> {
        batch.seal(closing);
        if !batch.writes.is_empty() {
            let forgotten = self.durable.commit(&batch.writes)?;
            let counters = &self.book.counters;
            Counters::add(&counters.commits, 1);
            Counters::add(&counters.committed_changes, batch.writes.len());
            Counters::add(&counters.forgotten, forgotten.bids);
            self.forgotten_before = self.forgotten_before.max(forgotten.before.unwrap_or(i64::MIN));
        }
        batch.apply();
        Ok(())
    }

    fn note_recovered(&mut self) {
        let slots = (0..self.book.len()).filter_map(|number| self.book.slot(AccountId(number)));
        self.recovered_due =
            slots.flat_map(|slot| slot.account.lock().record.recovered.iter().map(|t| t.until).min()).min();
    }
}

//! First-price bids and what became of them: what the win-rate models learn from.

use crate::auction::price::Priced;
use crate::auction::shade::{Shading, WinRates};
use crate::auction::slot::{AuctionType, Slot};
use crate::ledger::BidId;
use crate::money::Currency;
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Groups of slots; placements beyond share a group by chance.
const GROUPS: u64 = 1_024;
/// Bids whose fate is awaited at most; further ones teach nothing.
const OPEN_MAX: usize = 200_000;

/// Tables made anew in one control tick: some milliseconds of work.
const TABLES_MAX: usize = 32;

/// Group of a slot: its placement and currency. Placements without a name share one.
#[must_use]
pub fn group_of(slot: &Slot, currency: Currency) -> usize {
    // FNV-1a: few bytes, and the same from run to run.
    let bytes = slot.tag_id.as_deref().unwrap_or_default().bytes().chain(currency.as_str().bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    usize::try_from(hash % GROUPS).unwrap_or(0)
}

/// Win rates of first-price slots. A bid without a win notice while its money was held counts as lost: exchanges need not send
/// loss notices.
#[derive(Debug, Default)]
pub struct Shades {
    table: ArcSwap<Shading>,
    /// What the request path writes to: never held while tables are made.
    waiting: Mutex<Waiting>,
    rates: Mutex<WinRates>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Bids by time, oldest first.
    order: VecDeque<(i64, u128)>,
    /// Group and price of bids whose fate is not known.
    open: HashMap<u128, (usize, f64)>,
}

impl Shades {
    /// What to offer, for one request.
    pub fn load(&self) -> Guard<Arc<Shading>> {
        self.table.load()
    }

    /// A bid was made at `now` (Unix seconds). Only open first-price bids teach anything.
    pub fn offered(&self, now: i64, bid: BidId, slot: &Slot, priced: &Priced) {
        if priced.auction_type != AuctionType::FirstPrice {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.order.len() < OPEN_MAX {
            #[expect(clippy::cast_precision_loss, reason = "a price, far below 2^53 micros")]
            let price = priced.price.0 as f64;
            waiting.order.push_back((now, bid.0));
            waiting.open.insert(bid.0, (group_of(slot, priced.currency), price));
        }
    }

    /// A bid won. The second time, or for a bid that is not known, nothing happens.
    pub fn won(&self, bid: BidId) {
        let found = self.waiting.lock().open.remove(&bid.0);
        if let Some((group, price)) = found {
            self.rates.lock().record(group, price, true);
        }
    }

    /// Counts bids older than `wait_s` as lost and makes the table anew if anything was learned.
    pub fn refresh(&self, now: i64, wait_s: i64) {
        let mut lost = Vec::new();
        {
            let mut waiting = self.waiting.lock();
            while let Some(&(at, bid)) = waiting.order.front()
                && now.saturating_sub(at) > wait_s
            {
                waiting.order.pop_front();
                lost.extend(waiting.open.remove(&bid));
            }
        }
        let table = {
            let mut rates = self.rates.lock();
            lost.into_iter().for_each(|(group, price)| rates.record(group, price, false));
            rates.is_stale().then(|| rates.shading(TABLES_MAX))
        };
        if let Some(table) = table {
            self.table.store(Arc::new(table));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::Micros;

    #[test]
    fn silence_is_a_loss_and_a_win_counts_once() {
        let (shades, slot) = (Shades::default(), Slot { tag_id: Some("top".into()), ..Slot::default() });
        let priced = |price: i64| Priced {
            price: Micros(price),
            currency: Currency::USD,
            hold: Micros(price),
            strength: Micros(price),
            value: Micros(price),
            wanted: Micros(price),
            affordable: Micros(price),
            floor: Micros(0),
            deal: None,
            auction_type: AuctionType::FirstPrice,
        };
        // Bids of 2,000 win, bids of 500 do not.
        for n in 0..2_000_u128 {
            let price = if n % 2 == 0 { 2_000 } else { 500 };
            shades.offered(100, BidId(n), &slot, &priced(price));
            if n % 2 == 0 {
                shades.won(BidId(n));
                shades.won(BidId(n));
            }
        }
        assert_eq!(shades.waiting.lock().open.len(), 1_000, "half of the bids wait for their fate");
        shades.refresh(200, 60);
        let share = shades.load().share(group_of(&slot, Currency::USD), 4_000.0);
        assert!(share > 0.125 && share < 0.7, "{share}: more than 500 and less than the value is enough");
        assert!(shades.waiting.lock().open.is_empty());
        let fixed = Priced { auction_type: AuctionType::Fixed, ..priced(9) };
        shades.offered(300, BidId(9_999), &slot, &fixed);
        assert!(shades.waiting.lock().open.is_empty(), "an agreed price teaches nothing");
    }
}

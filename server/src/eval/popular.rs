//! The floor: everybody gets what all the others did most.

use super::cases::Act;
use super::metrics::Rank;
use crate::ids::ItemKey;
use std::cmp::Reverse;
use std::collections::HashMap;

/// Place in the order of popularity: more events first, then the smaller key.
type Place = (Reverse<usize>, ItemKey);

/// How often each item occurs.
pub(super) struct Popularity {
    counts: HashMap<ItemKey, usize>,
    order: Vec<Place>,
}

impl Popularity {
    /// From the number of events of each item.
    pub(super) fn of(counts: HashMap<ItemKey, usize>) -> Self {
        let mut order: Vec<Place> = counts.iter().map(|(&item, &count)| (Reverse(count), item)).collect();
        order.sort_unstable();
        Self { counts, order }
    }

    fn count(&self, item: ItemKey) -> usize {
        self.counts.get(&item).copied().unwrap_or(0)
    }

    /// Rank of `item` for a user whose own events (part of what was counted) do not count. `None` if nobody else has it. With
    /// `only_new` the user's own items are left out of the list.
    pub(super) fn rank(&self, item: ItemKey, own: &[Act], only_new: bool) -> Rank {
        let mut own_counts: HashMap<ItemKey, usize> = HashMap::new();
        for act in own {
            *own_counts.entry(act.item).or_default() += 1;
        }
        let others = |item: ItemKey| self.count(item).saturating_sub(own_counts.get(&item).copied().unwrap_or(0));
        let place: Place = (Reverse(others(item)), item);
        if place.0 == Reverse(0) || (only_new && own_counts.contains_key(&item)) {
            return None;
        }
        let ahead = self.order.partition_point(|other| *other < place);
        // Without the user's own events an item can only fall: some of those ahead no longer are.
        let fallen = own_counts.keys().filter(|&&own| {
            (Reverse(self.count(own)), own) < place && (only_new || (Reverse(others(own)), own) >= place)
        });
        Some(ahead - fallen.count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted<'a>(histories: impl Iterator<Item = &'a [Act]>, passes: impl Fn(ItemKey) -> bool) -> Popularity {
        let mut counts: HashMap<ItemKey, usize> = HashMap::new();
        for act in histories.flatten().filter(|act| passes(act.item)) {
            *counts.entry(act.item).or_default() += 1;
        }
        Popularity::of(counts)
    }

    fn history(items: &[i64]) -> Vec<Act> {
        items.iter().map(|&item| Act { item: ItemKey(item), action: 5, time: 0 }).collect()
    }

    #[test]
    fn own_events_do_not_recommend_themselves() {
        let users = [history(&[1, 1, 1, 2]), history(&[2, 3]), history(&[3, 2])];
        let popular = counted(users.iter().map(Vec::as_slice), |_| true);
        // For the first user: 2 twice, 3 twice, 1 never.
        assert_eq!(popular.rank(ItemKey(2), &users[0], false), Some(1));
        assert_eq!(popular.rank(ItemKey(3), &users[0], false), Some(2));
        assert_eq!(popular.rank(ItemKey(1), &users[0], false), None);
        // Without the items of the second there is 1 alone.
        assert_eq!(
            (popular.rank(ItemKey(1), &users[1], true), popular.rank(ItemKey(3), &users[1], true)),
            (Some(1), None)
        );
        // For the second: 1 three times, 2 twice, 3 once.
        assert_eq!(popular.rank(ItemKey(3), &users[1], false), Some(3));
        let without = counted(users.iter().map(Vec::as_slice), |item| item.0 != 1);
        assert_eq!(without.rank(ItemKey(3), &users[1], false), Some(2));
    }

    proptest! {
        #[test]
        fn equal_to_counting_anew_for_every_user(
            items in proptest::collection::vec(proptest::collection::vec(0i64..12, 0..20), 1..6),
            wanted in 0i64..14,
            only_new in any::<bool>(),
        ) {
            let users: Vec<Vec<Act>> = items.iter().map(|items| history(items)).collect();
            let popular = counted(users.iter().map(Vec::as_slice), |_| true);
            for (at, own) in users.iter().enumerate() {
                let mut list: Vec<(usize, i64)> = (0..14)
                    .map(|item| {
                        let others = items.iter().enumerate().filter(|(other, _)| *other != at);
                        (others.flat_map(|(_, items)| items).filter(|&&other| other == item).count(), item)
                    })
                    .filter(|&(count, item)| count > 0 && !(only_new && items[at].contains(&item)))
                    .collect();
                list.sort_by_key(|&(count, item)| (Reverse(count), item));
                let naive = list.iter().position(|&(_, item)| item == wanted).map(|at| at + 1);
                prop_assert_eq!(popular.rank(ItemKey(wanted), own, only_new), naive);
            }
        }
    }
}

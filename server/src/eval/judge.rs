//! Answers to figures.

use super::bootstrap::{Figure, Resamples};
use super::cases::{Person, Shown};
use super::desk::{Desk, Found, Job, Outcome, Outcomes, Predicted, What};
use super::labels::{Labelled, Row};
use super::metrics::{Quality, Rank, number, recall};
use super::popular::Popularity;
use super::report::{
    Answers, Best, BestOf, ColdAt, Impressions, Items, NextAt, Nexts, Report, ShownAt, Side, Skipped, Target,
};
use crate::ids::ItemKey;
use std::collections::HashSet;

/// Unknown items named in a report.
const NAMED_MAX: usize = 10;

/// What figures are made from.
pub(super) struct Judge<'a> {
    pub(super) desk: &'a Desk,
    pub(super) outcomes: &'a Outcomes,
    /// List lengths, ascending.
    pub(super) ks: &'a [usize],
    /// History lengths, ascending.
    pub(super) lengths: &'a [usize],
    /// Draws for each standard error.
    pub(super) draws: usize,
    pub(super) seed: u64,
}

type Got<'a> = &'a Result<Outcome, String>;

impl Judge<'_> {
    /// All figures.
    pub(super) fn report(&self) -> Report {
        let models: HashSet<&String> = self.outcomes.values().flatten().map(|outcome| &outcome.model).collect();
        let mut models: Vec<String> = models.into_iter().cloned().collect();
        models.sort();
        let cases = &self.desk.cases;
        let mut unknown: Vec<ItemKey> = self.desk.unknown.iter().copied().collect();
        unknown.sort_unstable();
        let named = unknown.iter().take(NAMED_MAX).filter_map(|item| cases.names.get(item)).cloned().collect();
        Report {
            users: cases.people.len(),
            users_in_file: cases.users_in_file,
            items: Items { in_file: cases.names.len(), unknown: unknown.len(), unknown_named: named },
            limits: self.desk.limits,
            models,
            next: self.next(),
            impressions: self.impressions(),
        }
    }

    /// The answer to a job; there is one for every job that was asked.
    fn got(&self, user: usize, what: What, length: usize) -> Option<Got<'_>> {
        self.outcomes.get(&self.desk.job(user, what, length))
    }

    fn resamples(&self, users: &[usize]) -> Resamples {
        Resamples::new(self.desk.cases.people.len(), users, self.draws, self.seed)
    }

    fn next(&self) -> Option<Nexts> {
        let users = self.desk.with_next();
        if users.is_empty() {
            return None;
        }
        let people = &self.desk.cases.people;
        let with_next = || people.iter().filter(|person| person.next.is_some());
        let too_short = with_next().filter(|person| person.history.is_empty()).count();
        let seen =
            |person: &Person| person.next.is_some_and(|next| person.history.iter().any(|act| act.item == next.item));
        let resamples = self.resamples(&users);
        let mut lengths: Vec<NextAt> = Vec::new();
        for &length in self.lengths {
            let mut at = self.next_at(&users, length, &resamples);
            if let (Some(last), Some(k)) = (lengths.last(), self.ks.last()) {
                at.rise = Some(at.quality.recall[k].less(&last.quality.recall[k]));
            }
            lengths.push(at);
        }
        Some(Nexts {
            evaluated: users.len(),
            skipped: Skipped { too_short, unknown_item: with_next().count() - too_short - users.len() },
            objective: self.desk.objective.clone(),
            exclude_history: self.desk.exclude_history,
            seen_before: users.iter().filter(|&&user| seen(&people[user])).count(),
            warm_items: self.desk.cold.as_ref().map(|cold| cold.above),
            lengths,
            popularity: self.floor(&users, &resamples),
        })
    }

    fn next_at(&self, users: &[usize], length: usize, resamples: &Resamples) -> NextAt {
        let all: Vec<Got<'_>> = users.iter().filter_map(|&user| self.got(user, What::Next, length)).collect();
        let ranks = self.ranks(users, What::Next, length);
        let people = &self.desk.cases.people;
        NextAt {
            length,
            users_with_all: users.iter().filter(|&&user| people[user].history.len() >= length).count(),
            answers: answers(&all),
            quality: Quality::of(&ranks, self.ks, resamples),
            rise: None,
            cold: self.cold(users, length, resamples),
        }
    }

    /// Where the next items stood; without an answer a miss.
    fn ranks(&self, users: &[usize], what: What, length: usize) -> Vec<(usize, Rank)> {
        let place = |user: usize| match self.got(user, what, length)? {
            Ok(Outcome { found: Found::Place(rank), .. }) => Some((user, *rank)),
            _ => Some((user, None)),
        };
        users.iter().filter_map(|&user| place(user)).collect()
    }

    fn cold(&self, users: &[usize], length: usize, resamples: &Resamples) -> Option<ColdAt> {
        let cold = self.desk.cold.as_ref()?;
        let k = self.ks.last().copied()?;
        let of_cold =
            |user: &usize| self.desk.cases.people[*user].next.is_some_and(|next| self.desk.is_cold(next.item));
        let (cold_users, warm_users): (Vec<usize>, Vec<usize>) = users.iter().partition(|user| of_cold(user));
        let figure = |users: &[usize], what| {
            let ranks = self.ranks(users, what, length);
            let hits: Vec<(usize, f64)> = ranks.iter().map(|&(user, rank)| (user, recall(rank, k))).collect();
            (!hits.is_empty()).then(|| resamples.mean(&hits))
        };
        let side = |users: &[usize], items: usize| Side {
            users: users.len(),
            items,
            recall: figure(users, What::Next).unwrap_or_else(|| resamples.mean(&[])),
            recall_alone: figure(users, What::Within),
        };
        let known = self.desk.cases.names.len() - self.desk.unknown.len();
        let (cold, warm) = (side(&cold_users, cold.items.len()), side(&warm_users, known - cold.items.len()));
        Some(ColdAt {
            ratio: cold.recall.over(&warm.recall),
            ratio_alone: cold.recall_alone.as_ref().zip(warm.recall_alone.as_ref()).map(|(a, b)| a.over(b)),
            cold,
            warm,
        })
    }

    /// Popularity, counted over the whole file without the events held out.
    fn floor(&self, users: &[usize], resamples: &Resamples) -> Quality {
        let mut counts = self.desk.cases.counts.clone();
        counts.retain(|item, _| !self.desk.unknown.contains(item));
        let popular = Popularity::of(counts);
        let rank = |&user: &usize| {
            let person = &self.desk.cases.people[user];
            person.next.map(|next| (user, popular.rank(next.item, &person.history, self.desk.exclude_history)))
        };
        Quality::of(&users.iter().filter_map(rank).collect::<Vec<_>>(), self.ks, resamples)
    }

    fn impressions(&self) -> Option<Impressions> {
        let users = self.desk.with_impressions();
        if users.is_empty() {
            return None;
        }
        let people = &self.desk.cases.people;
        let of_user =
            |user: usize| people[user].queries.iter().flat_map(|query| &query.shown).map(move |one| (user, one));
        let all: Vec<(usize, &Shown)> = (0..people.len()).flat_map(of_user).collect();
        let (unknown, known): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, shown)| self.desk.unknown.contains(&shown.item));
        let resamples = self.resamples(&users);
        let mut lengths: Vec<ShownAt> = Vec::new();
        for &length in self.lengths {
            let mut at = self.shown_at(&users, length, &resamples);
            if let Some(last) = lengths.last() {
                at.click.rise = Some(at.click.auc.less(&last.click.auc));
                at.conversion.rise = Some(at.conversion.auc.less(&last.conversion.auc));
                let (own, former) = (&at.conversion_after_click.auc, &last.conversion_after_click.auc);
                at.conversion_after_click.rise = Some(own.less(former));
            }
            lengths.push(at);
        }
        Some(Impressions {
            users: users.len(),
            impressions: known.len(),
            unknown_item: unknown.len(),
            lengths,
            best: best(&known, &resamples),
            best_in_file: self.desk.cases.best.clone(),
        })
    }

    fn shown_at(&self, users: &[usize], length: usize, resamples: &Resamples) -> ShownAt {
        let mut got = Vec::new();
        let mut rows: Vec<(usize, &Shown, Predicted)> = Vec::new();
        let mut jobs: HashSet<Job> = HashSet::new();
        for &user in users {
            for (number, query) in self.desk.cases.people[user].queries.iter().enumerate() {
                let job = self.desk.job(user, What::Shown(number), length);
                let Some(outcome) = self.outcomes.get(&job).filter(|_| jobs.insert(job)) else { continue };
                got.push(outcome);
                if let Ok(Outcome { found: Found::Predicted(list), .. }) = outcome {
                    let both = query.shown.iter().zip(list);
                    rows.extend(both.filter_map(|(shown, one)| one.map(|one| (user, shown, one))));
                }
            }
        }
        let orders: Vec<_> = rows.iter().filter(|(_, shown, _)| shown.conversion).collect();
        let part = |of: &dyn Fn(&Shown, &Predicted) -> f64| -> Vec<(usize, f64)> {
            orders.iter().map(|(user, shown, one)| (*user, of(shown, one))).collect()
        };
        let observed = resamples.mean(&part(&|shown, _| shown.value));
        let wrong = resamples.mean(&part(&|shown, one| (one.value - shown.value).abs()));
        let predicted = resamples.mean(&part(&|_, one| one.value));
        let clicked = rows.iter().filter(|(_, shown, _)| shown.click);
        ShownAt {
            length,
            answers: answers(&got),
            click: target(rows.iter().map(|&(user, shown, one)| row(user, one.click, shown.click)), resamples),
            conversion: target(
                rows.iter().map(|&(user, shown, one)| row(user, one.click * one.conversion, shown.conversion)),
                resamples,
            ),
            conversion_after_click: target(
                clicked.map(|&(user, shown, one)| row(user, one.conversion, shown.conversion)),
                resamples,
            ),
            value_error: wrong.over(&observed),
            value_ratio: predicted.over(&observed),
        }
    }
}

fn row(user: usize, predicted: f64, label: bool) -> Row {
    Row { user, predicted, label }
}

fn answers(all: &[Got<'_>]) -> Answers {
    let came: Vec<&Outcome> = all.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
    let degraded = came.iter().filter(|outcome| outcome.degraded).count();
    let failed = all.len() - came.len();
    let events: usize = came.iter().map(|outcome| outcome.events).sum();
    Answers {
        asked: all.len(),
        answered: came.len(),
        degraded,
        failed,
        degraded_or_failed: number(degraded + failed) / number(all.len().max(1)),
        events_read: number(events) / number(came.len().max(1)),
        first_failure: all.iter().find_map(|outcome| outcome.as_ref().err().cloned()),
    }
}

fn target(rows: impl Iterator<Item = Row>, resamples: &Resamples) -> Target {
    let list = Labelled::new(rows.collect());
    let (rows, positives) = list.counts();
    Target {
        rows,
        positives,
        auc: resamples.figure(|weights| list.auc(weights)),
        rise: None,
        normalised_entropy: resamples.figure(|weights| list.normalised_entropy(weights)),
        calibration_error: resamples.figure(|weights| list.calibration_error(weights)),
        calibration_chance: resamples.whole(|weights| list.calibration_chance(weights)),
        predicted_over_observed: resamples.figure(|weights| list.ratio(weights)),
        bins: resamples.whole(|weights| list.bins(weights)),
    }
}

fn best(shown: &[(usize, &Shown)], resamples: &Resamples) -> Option<Best> {
    type Known<'a> = (usize, &'a Shown, (f64, f64));
    let all: Option<Vec<Known<'_>>> =
        shown.iter().map(|&(user, shown)| shown.truth.map(|truth| (user, shown, truth))).collect();
    let all = all?;
    let of = |rows: Vec<Row>| -> BestOf {
        let list = Labelled::new(rows);
        let figure = |of: fn(&Labelled, &[u16]) -> f64| -> Figure { resamples.figure(|weights| of(&list, weights)) };
        BestOf { auc: figure(Labelled::auc), normalised_entropy: figure(Labelled::normalised_entropy) }
    };
    let clicked = all.iter().filter(|(_, shown, _)| shown.click);
    Some(Best {
        click: of(all.iter().map(|&(user, shown, (p, _))| row(user, p, shown.click)).collect()),
        conversion: of(all.iter().map(|&(user, shown, (p, after))| row(user, p * after, shown.conversion)).collect()),
        conversion_after_click: of(clicked
            .map(|&(user, shown, (_, after))| row(user, after, shown.conversion))
            .collect()),
    })
}

//! Creatives grouped by shape: everything that decides whether a creative fits a slot.
//!
//! Ten thousand creatives have a few hundred shapes, so a request asks each shape once and joins the plans that have it.

use super::fit::ShapeKey;
use super::postings::Postings;
use crate::ids::PlanSlot;
use crate::plans::Creative;
use std::collections::HashMap;
use std::sync::Arc;

/// One shape and who has it.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    key: Arc<ShapeKey>,
    /// Any creative of the shape: it fits exactly the slots that all of them fit.
    pub(super) example: Arc<Creative>,
    creatives: usize,
    /// Plans with a creative of the shape for any of their items.
    pub(super) generic: Arc<Postings>,
    /// Plans with a creative of the shape for one item.
    pub(super) specific: Arc<Postings>,
}

/// All shapes. Numbers hold within one snapshot only: the number of a shape that died is given again.
#[derive(Clone, Debug, Default)]
pub(super) struct Shapes {
    list: Vec<Option<Shape>>,
    numbers: Arc<HashMap<Arc<ShapeKey>, u32>>,
    free: Vec<u32>,
}

impl Shapes {
    /// One above the highest number in use.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Shape)> {
        self.list.iter().zip(0u32..).filter_map(|(shape, number)| Some((number, shape.as_ref()?)))
    }

    /// Counts one more creative of its shape and gives the shape's number.
    pub(super) fn enter(&mut self, creative: &Arc<Creative>) -> u32 {
        let key = ShapeKey::of(creative);
        if let Some(&number) = self.numbers.get(&key) {
            if let Some(Some(shape)) = self.list.get_mut(number as usize) {
                shape.creatives += 1;
            }
            return number;
        }
        let key = Arc::new(key);
        let shape = Shape {
            key: Arc::clone(&key),
            example: Arc::clone(creative),
            creatives: 1,
            generic: Arc::default(),
            specific: Arc::default(),
        };
        let number = if let Some(number) = self.free.pop() {
            self.list[number as usize] = Some(shape);
            number
        } else {
            self.list.push(Some(shape));
            u32::try_from(self.list.len() - 1).unwrap_or(u32::MAX)
        };
        Arc::make_mut(&mut self.numbers).insert(key, number);
        number
    }

    /// Counts one creative less.
    pub(super) fn leave(&mut self, number: u32) {
        let Some(place) = self.list.get_mut(number as usize) else { return };
        let Some(shape) = place else { return };
        shape.creatives -= 1;
        if shape.creatives == 0 {
            Arc::make_mut(&mut self.numbers).remove(&shape.key);
            *place = None;
            self.free.push(number);
        }
    }

    /// States whether `plan` has creatives of the shape for any item and for one item.
    pub(super) fn mark(&mut self, number: u32, plan: PlanSlot, generic: bool, specific: bool) {
        let Some(Some(shape)) = self.list.get_mut(number as usize) else { return };
        for (set, member) in [(&mut shape.generic, generic), (&mut shape.specific, specific)] {
            let set = Arc::make_mut(set);
            if member { set.insert(plan, plan as usize + 1) } else { set.remove(plan) }
        }
    }
}

//! A composition as values by part.

use crate::ids::Id;
use crate::plans::{Creative, Part};

/// The values that a composed creative shows; all absent for one without elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look<'a> {
    /// Name of the layout.
    pub template: Option<&'a str>,
    /// Picture's URL.
    pub picture: Option<&'a str>,
    /// Headline.
    pub title: Option<&'a str>,
    /// Selling point.
    pub text: Option<&'a str>,
    /// Price badge.
    pub badge: Option<&'a str>,
    /// Call to action.
    pub cta: Option<&'a str>,
    /// Colour behind everything.
    pub background: Option<&'a str>,
    /// Colour of texts.
    pub colour: Option<&'a str>,
    /// Name of a font.
    pub font: Option<&'a str>,
    /// Name of a text size.
    pub size: Option<&'a str>,
}

impl<'a> Look<'a> {
    /// The look of `creative` in the elements of these ids.
    pub fn of<'b>(creative: &'a Creative, elements: impl IntoIterator<Item = &'b Id>) -> Self {
        let mut look = Self::default();
        for element in elements.into_iter().filter_map(|id| creative.elements.get(id)) {
            let place = match element.part {
                Part::Template => &mut look.template,
                Part::Picture => &mut look.picture,
                Part::Title => &mut look.title,
                Part::Text => &mut look.text,
                Part::Badge => &mut look.badge,
                Part::Cta => &mut look.cta,
                Part::Background => &mut look.background,
                Part::Colour => &mut look.colour,
                Part::Font => &mut look.font,
                Part::Size => &mut look.size,
            };
            *place = Some(element.value.as_str());
        }
        look
    }
}

//! A record between its JSON and the catalogue.

use crate::admin::Kind;
use crate::catalog::Catalog;
use crate::ids::Id;
use crate::plans::{Creative, FieldError, Format, Item, Plan};
use crate::render::web_url;
use crate::store::{CatalogKind, CatalogRecord};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A checked record on its way in.
#[derive(Clone, Debug)]
pub(super) enum Record {
    Item(Item),
    Plan(Plan),
    Creative(Creative),
}

impl Record {
    /// Reads and checks one record; the error names the field. The id of a new one must be fit for a path; those stored before that
    /// was a rule can be changed still.
    pub(super) fn checked(kind: Kind, value: Value, dimension: usize, catalog: &Catalog) -> Result<Self, FieldError> {
        let record = Self::parse(kind, value, dimension)?;
        let stored = match &record {
            Self::Item(item) => catalog.item_slot(&item.id).is_some(),
            Self::Plan(plan) => catalog.plan_slot(&plan.id).is_some(),
            Self::Creative(creative) => catalog.creative_slot(&creative.id).is_some(),
        };
        let fit = if stored { Ok(()) } else { record.id().check_addressable() };
        fit.map(|()| record).map_err(|fault| FieldError::new("id", fault))
    }

    fn parse(kind: Kind, value: Value, dimension: usize) -> Result<Self, FieldError> {
        fn typed<T: DeserializeOwned>(value: Value) -> Result<T, FieldError> {
            serde_path_to_error::deserialize(value).map_err(|error| {
                let path = error.path().to_string();
                let field = if path == "." { "record".to_owned() } else { path };
                FieldError::new(field, error.into_inner().to_string())
            })
        }
        Ok(match kind {
            Kind::Items => {
                let item: Item = typed(value)?;
                item.validate(dimension)?;
                addresses([("url", &item.url), ("image_url", &item.image_url)])?;
                Self::Item(item)
            }
            Kind::Plans => {
                let plan: Plan = typed(value)?;
                plan.validate()?;
                plan.check_lists()?;
                Self::Plan(plan)
            }
            Kind::Creatives => {
                let creative: Creative = typed(value)?;
                creative.validate()?;
                match &creative.format {
                    Format::Banner { image_url, .. } => addresses([("image_url", image_url)])?,
                    Format::Video { media_url, .. } => addresses([("media_url", media_url)])?,
                    Format::Native { image_url, icon_url, .. } => {
                        addresses([("image_url", image_url), ("icon_url", icon_url)])?;
                    }
                }
                Self::Creative(creative)
            }
        })
    }

    pub(super) fn id(&self) -> &Id {
        match self {
            Self::Item(item) => &item.id,
            Self::Plan(plan) => &plan.id,
            Self::Creative(creative) => &creative.id,
        }
    }

    pub(super) fn to_value(&self) -> Value {
        let value = match self {
            Self::Item(item) => serde_json::to_value(item),
            Self::Plan(plan) => serde_json::to_value(plan),
            Self::Creative(creative) => serde_json::to_value(creative),
        };
        // Plain data always serialises.
        value.unwrap_or_default()
    }

    pub(super) fn to_durable(&self) -> CatalogRecord {
        let kind = match self {
            Self::Item(_) => CatalogKind::Item,
            Self::Plan(_) => CatalogKind::Plan,
            Self::Creative(_) => CatalogKind::Creative,
        };
        CatalogRecord { kind, id: self.id().clone(), json: self.to_value().to_string().into_bytes() }
    }
}

/// What an ad could not be written with is refused on its way in; empty ones are left to the record's own rules. Not one of those, as
/// records stored before must not keep a server from starting.
fn addresses<const N: usize>(fields: [(&str, &String); N]) -> Result<(), FieldError> {
    for (field, url) in fields {
        if !url.is_empty() && web_url(url).is_err() {
            return Err(FieldError::new(field, "must be a web address: https:// or http:// and a host"));
        }
    }
    Ok(())
}

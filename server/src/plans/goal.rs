//! What a plan's money should bring.

use crate::money::Micros;
use serde::{Deserialize, Serialize};

/// What an advertiser wants for the money.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "Fields")]
pub enum Goal {
    /// Return on ad spend: order value per unit of spend must average at least `target`.
    Roi {
        /// Order value over spend, for example 3.0.
        target: f64,
    },
    /// Cost per conversion at most this.
    Cpa {
        /// Micros of the plan's currency for one conversion.
        target_micros: Micros,
    },
    /// Cost per click at most this.
    Cpc {
        /// Micros of the plan's currency for one click.
        target_micros: Micros,
    },
}

/// A goal as it is written: an object of which one field is there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with one of roi, cpa, cpc")]
struct Fields {
    #[serde(default)]
    roi: Option<Return>,
    #[serde(default)]
    cpa: Option<Cost>,
    #[serde(default)]
    cpc: Option<Cost>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Return {
    target: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    target_micros: Micros,
}

impl TryFrom<Fields> for Goal {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        match fields {
            Fields { roi: Some(Return { target }), cpa: None, cpc: None } => Ok(Self::Roi { target }),
            Fields { roi: None, cpa: Some(Cost { target_micros }), cpc: None } => Ok(Self::Cpa { target_micros }),
            Fields { roi: None, cpa: None, cpc: Some(Cost { target_micros }) } => Ok(Self::Cpc { target_micros }),
            _ => Err(
                "must have exactly one of roi, cpa, cpc, as in {\"roi\": {\"target\": 3.0}}; a PATCH takes one out with null",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_one_of_three_and_reads_back() {
        for goal in
            [Goal::Roi { target: 3.0 }, Goal::Cpa { target_micros: Micros(5) }, Goal::Cpc { target_micros: Micros(7) }]
        {
            let text = serde_json::to_string(&goal).unwrap();
            assert_eq!(serde_json::from_str::<Goal>(&text).unwrap(), goal, "{text}");
        }
        for (text, told) in [
            ("{}", "exactly one of roi, cpa, cpc"),
            (r#"{"roi": {"target": 1.0}, "cpc": {"target_micros": 1}}"#, "exactly one of roi, cpa, cpc"),
            (r#"{"roas": {"target": 1.0}}"#, "expected one of `roi`, `cpa`, `cpc`"),
            (r#""roi""#, "an object with one of roi, cpa, cpc"),
            ("null", "an object with one of roi, cpa, cpc"),
            (r#"{"roi": {}}"#, "`target`"),
            (r#"{"cpc": {"target_micros": 1, "target": 1}}"#, "`target`"),
        ] {
            let error = serde_json::from_str::<Goal>(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}

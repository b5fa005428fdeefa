//! What a user did: names for callers, numbers for histories and the model's action table.

use crate::store::ACTION_MAX;
use serde_json::Value;

/// Names by number. Number 0 stands for "none" and belongs to candidates, never to an event. Numbers from 8 on have no
/// name and may be sent as they are, for models that were trained with more actions.
pub const NAMES: [&str; 8] = ["none", "impression", "click", "cart", "purchase", "view", "like", "skip"];

/// An impression that was shown.
pub const IMPRESSION: u16 = 1;
/// A click.
pub const CLICK: u16 = 2;
/// Put into the cart.
pub const CART: u16 = 3;
/// A purchase: the conversion.
pub const PURCHASE: u16 = 4;
/// Liked.
pub const LIKE: u16 = 6;
/// Looked at: the action of an event that names none.
pub const VIEW: u16 = 5;

/// The number of an action written as a name or a number; [`VIEW`] if absent or null.
///
/// # Errors
/// What is wrong and what would be right.
pub fn parse(value: Option<&Value>) -> Result<u16, String> {
    match value {
        None | Some(Value::Null) => Ok(VIEW),
        Some(Value::String(name)) => {
            let number = (1u16..).zip(&NAMES[1..]).find(|(_, known)| *known == name).map(|(number, _)| number);
            number.ok_or_else(|| format!("`{}` is not one of {}", name.escape_debug(), NAMES[1..].join(", ")))
        }
        Some(Value::Number(number)) => number
            .as_u64()
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| (1..=ACTION_MAX).contains(number))
            .ok_or_else(|| format!("must be a name or a number from 1 to {ACTION_MAX}")),
        Some(_) => Err("must be a name such as \"click\", or a number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_numbers_agree() {
        assert_eq!(parse(Some(&json!("click"))), Ok(CLICK));
        assert_eq!(parse(Some(&json!(2))), Ok(CLICK));
        assert_eq!(parse(Some(&json!("purchase"))), Ok(PURCHASE));
        assert_eq!(parse(None), Ok(VIEW));
        assert_eq!(parse(Some(&Value::Null)), Ok(VIEW));
        for bad in [json!("none"), json!("nonsense"), json!(0), json!(256), json!(-1), json!(1.5), json!([1])] {
            assert!(parse(Some(&bad)).is_err(), "{bad}");
        }
    }
}

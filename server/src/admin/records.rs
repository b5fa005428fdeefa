//! Reading and writing single records.

use super::audit::Call;
use super::desk::Desk;
use super::tags::{IfMatch, tagged};
use super::tokens::Caller;
use super::{CatalogAdmin, Kind, Page, WriteMode, Written};
use crate::http::Request;
use crate::http::respond::{self, Fault, Response};
use crate::ids::ID_BYTES_MAX;
use crate::meters::Label as _;
use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

/// Records on a page when the request does not say.
const PAGE_DEFAULT: usize = 100;

/// The `limit` of a request, at most `most`.
pub(super) fn limit(request: &Request, most: usize) -> Result<usize, Fault> {
    let Some(text) = request.query("limit") else { return Ok(PAGE_DEFAULT.min(most)) };
    let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
    limit.ok_or_else(|| Fault::invalid("limit", format!("is {text:?}, allowed is 1 to {most}")))
}

pub(super) async fn list<C: CatalogAdmin>(
    desk: &Desk<C>,
    call: &Call<'_>,
    kind: Kind,
    request: &Request,
) -> Result<Response, Fault> {
    let listing = desk.list(call.caller, kind, page(desk, request)?).await?;
    Ok(respond::json(StatusCode::OK, &listing))
}

/// `GET /v1/balances`: the money of the plans that `GET /v1/plans` lists under the same page.
pub(super) async fn balances<C: CatalogAdmin>(
    desk: &Desk<C>,
    caller: &Caller,
    request: &Request,
) -> Result<Response, Fault> {
    let listing = desk.balances(caller, page(desk, request)?).await?;
    Ok(respond::json(StatusCode::OK, &listing))
}

/// The part of a list that a request asks for.
fn page<C>(desk: &Desk<C>, request: &Request) -> Result<Page, Fault> {
    let limit = limit(request, desk.config.admin.page_max)?;
    let after = request.query("after").map(std::borrow::Cow::into_owned);
    Ok(Page { after, limit, owner: None })
}

pub(super) async fn create<C: CatalogAdmin>(
    desk: &Desk<C>,
    call: &Call<'_>,
    kind: Kind,
    request: &mut Request,
) -> Result<Response, Fault> {
    let record = object(desk, request).await?;
    let id = match record.get("id") {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) if id.is_i64() || id.is_u64() => id.to_string(),
        _ => return Err(Fault::invalid("id", "must be a string or an integer")),
    };
    if !(1..=ID_BYTES_MAX).contains(&id.len()) {
        return Err(Fault::invalid("id", format!("must be 1 to {ID_BYTES_MAX} bytes")));
    }
    let how = (WriteMode::Create, &IfMatch::Anything);
    written(kind, &id, desk.put(call, kind, (&id, Value::Object(record)), how).await)
}

pub(super) async fn put<C: CatalogAdmin>(
    desk: &Desk<C>,
    call: &Call<'_>,
    (kind, id): (Kind, &str),
    request: &mut Request,
) -> Result<Response, Fault> {
    let if_match = IfMatch::of(request)?;
    let mut record = object(desk, request).await?;
    same_id(id, &mut record)?;
    let how = (WriteMode::Upsert, &if_match);
    written(kind, id, desk.put(call, kind, (id, Value::Object(record)), how).await)
}

pub(super) async fn patch<C: CatalogAdmin>(
    desk: &Desk<C>,
    call: &Call<'_>,
    (kind, id): (Kind, &str),
    request: &mut Request,
) -> Result<Response, Fault> {
    let if_match = IfMatch::of(request)?;
    let mut change = object(desk, request).await?;
    same_id(id, &mut change)?;
    written(kind, id, desk.patch(call, kind, (id, Value::Object(change)), &if_match).await)
}

fn written(kind: Kind, id: &str, result: Result<Written, Fault>) -> Result<Response, Fault> {
    let Written { record, created } = result?;
    if !created {
        return Ok(tagged(respond::json(StatusCode::OK, &record), &record));
    }
    let mut response = tagged(respond::json(StatusCode::CREATED, &record), &record);
    let place = format!("/v1/{}/{}", kind.name(), utf8_percent_encode(id, NON_ALPHANUMERIC));
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

/// The id in the path is the record's; in the body it may be left out or repeated.
fn same_id(id: &str, record: &mut Map<String, Value>) -> Result<(), Fault> {
    let same = match record.get("id") {
        None => true,
        Some(Value::String(text)) => text == id,
        Some(Value::Number(number)) => number.to_string() == id,
        Some(_) => false,
    };
    if !same {
        return Err(Fault::invalid("id", format!("differs from the id in the path, {id:?}")));
    }
    record.insert("id".to_owned(), id.into());
    Ok(())
}

pub(super) async fn object<C: CatalogAdmin>(
    desk: &Desk<C>,
    request: &mut Request,
) -> Result<Map<String, Value>, Fault> {
    request.expect_json()?;
    let body = request.bytes(desk.config.admin.body_bytes_max).await.map_err(|error| error.fault())?;
    match serde_json::from_slice(&body) {
        Ok(Value::Object(record)) => Ok(record),
        Ok(_) => Err(Fault::new(StatusCode::BAD_REQUEST, "bad_json", "the body must be a JSON object")),
        Err(error) => Err(Fault::new(StatusCode::BAD_REQUEST, "bad_json", format!("the body is not JSON: {error}"))),
    }
}

/// Applies a JSON merge patch (RFC 7396): null removes a field, objects merge, anything else replaces.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            merge_patch(fields.entry(name.as_str()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patch_follows_the_cases_of_rfc_7396() {
        // Appendix A: (original, patch, result).
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut target, patch, result) in cases {
            merge_patch(&mut target, &patch);
            assert_eq!(target, result, "{patch}");
        }
    }
}

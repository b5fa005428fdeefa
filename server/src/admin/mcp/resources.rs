//! Plans and reports as resources, and prompts for the common tasks.

use super::super::desk::Desk;
use super::super::plans::Span;
use super::super::tokens::Caller;
use super::super::{CatalogAdmin, Kind, Page};
use super::arguments::came;
use crate::http::path_id;
use crate::http::respond::Fault;
use crate::reports::Grouping;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rmcp::model::{
    ErrorData, GetPromptResult, Prompt, PromptMessage, ReadResourceResult, Resource, ResourceContents,
    ResourceTemplate, Role,
};
use serde::Deserialize;
use serde_json::Value;

const PROMPTS: &str = include_str!("../../../assets/mcp/prompts.json");
const ROOT: &str = "longbow://plans";
const JSON: &str = "application/json";
/// Plans listed as resources; the rest is reached by the template.
const LISTED_MAX: usize = 100;
/// Longest argument of a prompt.
const ARGUMENT_MAX: usize = 2_000;

/// What the plan's resources are.
const PARTS: [(&str, &str); 3] = [
    ("", "settings of the plan"),
    ("/report", "figures of the last day, by hour"),
    ("/diagnosis", "why the return changed, the last day against the day before"),
];

/// Plans that are there for the caller, with their report and diagnosis.
pub(super) async fn list<C: CatalogAdmin>(desk: &Desk<C>, caller: &Caller) -> Result<Vec<Resource>, Fault> {
    let listing = desk.list(caller, Kind::Plans, Page { after: None, limit: LISTED_MAX, owner: None }).await?;
    let mut resources = vec![Resource::new(ROOT, "plans").with_description("ids of all plans").with_mime_type(JSON)];
    for record in &listing.records {
        let id = record["id"].as_str().unwrap_or_default();
        let encoded = utf8_percent_encode(id, NON_ALPHANUMERIC).to_string();
        for (part, what) in PARTS {
            let resource = Resource::new(format!("{ROOT}/{encoded}{part}"), format!("{id}{part}"));
            resources.push(resource.with_description(what).with_mime_type(JSON));
        }
    }
    Ok(resources)
}

/// The same for any plan.
pub(super) fn templates() -> Vec<ResourceTemplate> {
    let template = |(part, what): (&str, &str)| {
        ResourceTemplate::new(format!("{ROOT}/{{plan}}{part}"), format!("plan{part}"))
            .with_description(what)
            .with_mime_type(JSON)
    };
    PARTS.into_iter().map(template).collect()
}

/// Reads one resource.
pub(super) async fn read<C: CatalogAdmin>(
    desk: &Desk<C>,
    caller: &Caller,
    uri: &str,
) -> Result<ReadResourceResult, Fault> {
    let unknown = || Fault::not_found(&format!("resource `{uri}`"));
    let rest = uri.strip_prefix(ROOT).ok_or_else(unknown)?;
    let value = if rest.is_empty() {
        ids(desk, caller).await?
    } else {
        let rest = rest.strip_prefix('/').ok_or_else(unknown)?;
        let (plan, part) = rest.split_once('/').map_or((rest, ""), |(plan, part)| (plan, part));
        let plan = path_id(plan)?;
        match part {
            "" => desk.get(caller, Kind::Plans, &plan).await?,
            "report" => {
                let span = Span::read(None, None, (desk.now(), 86_400), ["from", "to"])?;
                serde_json::to_value(desk.figures(caller, &plan, span, Grouping::Hour).await?).unwrap_or_default()
            }
            "diagnosis" => serde_json::to_value(desk.diagnosis(caller, &plan, None).await?).unwrap_or_default(),
            _ => return Err(unknown()),
        }
    };
    Ok(ReadResourceResult::new(vec![ResourceContents::text(value.to_string(), uri).with_mime_type(JSON)]))
}

async fn ids<C: CatalogAdmin>(desk: &Desk<C>, caller: &Caller) -> Result<Value, Fault> {
    let limit = desk.config.admin.page_max;
    let listing = desk.list(caller, Kind::Plans, Page { after: None, limit, owner: None }).await?;
    let ids: Vec<&Value> = listing.records.iter().map(|record| &record["id"]).collect();
    Ok(serde_json::json!({ "plans": ids, "total": listing.total }))
}

/// A prompt and its text, in which `{name}` stands for an argument.
#[derive(Deserialize)]
struct Entry {
    prompt: Prompt,
    text: String,
}

fn entries() -> Result<Vec<Entry>, ErrorData> {
    serde_json::from_str(PROMPTS).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

/// The list of prompts.
pub(super) fn prompts() -> Result<Vec<Prompt>, ErrorData> {
    Ok(entries()?.into_iter().map(|entry| entry.prompt).collect())
}

/// A prompt with its arguments filled in.
pub(super) fn prompt(name: &str, arguments: &Value) -> Result<GetPromptResult, ErrorData> {
    let entry = entries()?.into_iter().find(|entry| entry.prompt.name == name);
    let entry = entry.ok_or_else(|| ErrorData::invalid_params(format!("there is no prompt `{name}`"), None))?;
    let mut text = entry.text;
    for argument in entry.prompt.arguments.unwrap_or_default() {
        let given = &arguments[argument.name.as_str()];
        if !(given.is_null() || given.is_string()) {
            let fault = format!("the argument `{}` must be text; came {}", argument.name, came(given));
            return Err(ErrorData::invalid_params(fault, None));
        }
        let given = given.as_str();
        let required = argument.required.unwrap_or(false);
        if given.is_none() && required {
            return Err(ErrorData::invalid_params(format!("the argument `{}` is missing", argument.name), None));
        }
        let given: String = given.unwrap_or("not said").chars().take(ARGUMENT_MAX).collect();
        text = text.replace(&format!("{{{}}}", argument.name), &given);
    }
    Ok(GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)]))
}

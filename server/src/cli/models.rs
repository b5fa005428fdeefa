//! `longbow models`: the life of models in a running server, over its admin port.

use super::client::{Connection, Server};
use super::out;
use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

/// Shown below `longbow models --help`.
pub const EXAMPLE: &str = "Example:\n  longbow models list\n  longbow models load demo-2026-11-24 --admin http://127.0.0.1:9090\n  longbow models rollback\n\n\
    A bundle is loaded from the server's model directory (model.dir), checked, warmed beside the one that serves, and then\n\
    switched to. One that fails its checks is refused; the one before keeps serving. Exits 1 if it was refused.";

/// Longest wait for a load: the server gives up waiting after ten minutes.
const PATIENCE: Duration = Duration::from_secs(660);

/// Arguments of `models`.
#[derive(Clone, Debug, Args)]
pub struct ModelsArgs {
    /// Admin port of the server
    #[arg(long, global = true, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    pub admin: String,
    /// Token of the admin port, if it asks for one [default: LONGBOW_ADMIN__TOKEN]
    #[arg(long, global = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What is done.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Which model serves, which served before, which could be loaded
    List,
    /// Loads a bundle of the server's model directory and waits until it serves
    Load {
        /// Name of the bundle, or its path below the model directory
        bundle: String,
    },
    /// Loads the model that served before
    Rollback,
}

pub(super) fn run(args: &ModelsArgs, json: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(ask(args))?;
    print(&status);
    out::json(json, &status)?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(args: &ModelsArgs) -> anyhow::Result<Value> {
    let server = Server::parse(&args.admin).context("--admin")?;
    let token = args.token.clone().or_else(|| std::env::var("LONGBOW_ADMIN__TOKEN").ok());
    let mut connection = Connection::new(server, 1).with(PATIENCE, token);
    let (method, path, body) = match &args.action {
        Action::List => (Method::GET, "/v1/models", Bytes::new()),
        Action::Load { bundle } => (Method::POST, "/v1/models?wait=true", json!({ "path": bundle }).to_string().into()),
        Action::Rollback => (Method::POST, "/v1/models/rollback?wait=true", Bytes::new()),
    };
    let (status, text) = connection.send(method, path, &body).await?;
    let answer: Value = serde_json::from_slice(&text).with_context(|| format!("{status}: the answer is not JSON"))?;
    if !status.is_success() {
        let reason = answer["error"]["message"].as_str().unwrap_or("no reason given");
        let word = if status.as_u16() == 422 { "refused" } else { "not done" };
        bail!("{word} ({status}): {reason}");
    }
    Ok(answer)
}

fn print(status: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let row = |state: &str, model: &Value| {
        let version: String = text(&model["version"]).chars().take(12).collect();
        vec![text(&model["name"]), version, state.to_owned(), text(&model["path"])]
    };
    let header = ["model", "version", "state", "path"].map(str::to_owned);
    let mut rows = vec![row("serving", &status["current"])];
    if !status["previous"].is_null() {
        rows.push(row("previous", &status["previous"]));
    }
    out::table(&header, &rows);
    let names = |list: &Value| {
        let names: Vec<String> = list.as_array().into_iter().flatten().map(text).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    out::line(format!("bundles that can be loaded: {}", names(&status["available"])));
    if let Some(path) = status["loading"]["path"].as_str() {
        out::line(format!("loading {path}"));
    }
    if let Some(reason) = status["refused"]["reason"].as_str() {
        out::line(format!("last refusal: {}: {reason}", text(&status["refused"]["path"])));
    }
}

//! `longbow bundle MODEL DIR`: a bare safetensors file as a bundle, so that it can be loaded while serving.

use super::out;
use crate::actions;
use crate::pipeline::TASKS;
use anyhow::{Context, bail};
use clap::Args;
use longbow_model::bundle::{self, About, Features};
use longbow_model::{Config, LoadError, Model};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Shown below `longbow bundle --help`.
pub const EXAMPLE: &str = "Example:\n  longbow bundle checkpoint.safetensors data/models/checkpoint\n  longbow models load checkpoint\n\n\
    The self-check holds what the reference encoder computes with these weights: later damage to them, and a serving encoder that\n\
    computes something else, are found when the bundle is loaded. Whether the weights are good it cannot say.";

/// Arguments of `bundle`.
#[derive(Clone, Debug, Args)]
pub struct BundleArgs {
    /// A safetensors file with public tensor names and a `config`
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Directory to make; its last part is the name of the bundle
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Seed of the histories of the self-check
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

pub(super) fn run(args: &BundleArgs, json: bool) -> anyhow::Result<ExitCode> {
    let model = Model::load(&args.model).map_err(|fault| match fault {
        // Names the file itself.
        LoadError::Io { .. } => anyhow::Error::new(fault),
        _ => anyhow::Error::new(fault).context(args.model.display().to_string()),
    })?;
    let name = args.dir.file_name().and_then(|name| name.to_str()).context("DIR has no name to give the bundle")?;
    let about = About {
        name: name.to_owned(),
        made_by: format!("longbow bundle {}", args.model.display()),
        created: String::new(),
        features: features(model.config())?,
        calibration: Vec::new(),
        training: Value::Null,
    };
    let version = bundle::write(&args.dir, &model, &about, args.seed)?.to_string();
    out::line(format!("{}: version {version}", args.dir.display()));
    out::json(json, &json!({ "dir": args.dir, "name": name, "version": version }))?;
    Ok(ExitCode::SUCCESS)
}

/// What the server will read into the model's numbers.
fn features(config: &Config) -> anyhow::Result<Features> {
    let known = actions::NAMES.len();
    let count = if config.action_embedding_dim > 0 { config.num_actions } else { known };
    if config.num_tasks > TASKS.len() {
        bail!("the model has {} tasks, but this server reads {}", config.num_tasks, TASKS.join(", "));
    }
    let action = |at: usize| actions::NAMES.get(at).map_or_else(|| format!("action-{at}"), |name| (*name).to_owned());
    Ok(Features {
        actions: (0..count).map(action).collect(),
        tasks: TASKS[..config.num_tasks].iter().map(|task| (*task).to_owned()).collect(),
        times: "unix_seconds".to_owned(),
    })
}

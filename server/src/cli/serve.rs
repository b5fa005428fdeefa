//! Settings from the command line, and what a server says once it is ready.

use super::out;
use crate::app::{self, App, Bound, Stores};
use crate::config::{Config, Sources};
use crate::deadline::{SystemClock, WallClock as _};
use crate::demo;
use crate::runtime::{self, EXIT_USAGE, Lifecycle};
use clap::Args;
use serde::Serialize;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Shown below `longbow config --help`.
pub const CONFIG_EXAMPLE: &str =
    "Example:\n  longbow config --config longbow.toml --set batch.queue_max=256 > effective.toml";
/// Shown below `longbow serve --help`.
pub const SERVE_EXAMPLE: &str = "Example:\n  longbow serve --http 0.0.0.0:8080 --data /var/lib/longbow --config /etc/longbow.toml\n\n\
    Every key can be set in the file, as LONGBOW_SECTION__KEY in the environment, or with --set; `longbow config` lists them.";
/// Shown below `longbow demo --help`.
pub const DEMO_EXAMPLE: &str = "Example:\n  longbow demo --data /tmp/longbow-demo --set demo.items=20000\n\n\
    The world is seeded: the same settings make the same world. A directory that holds one is served as it is.";

/// Where settings come from: flags win over the environment, the environment over the file, the file over defaults.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    /// Address and port for exchanges and feeds [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Address and port for health, metrics and plans [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
    /// Directory of durable state [default: data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Settings as TOML (also: LONGBOW_CONFIG)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting, as in batch.queue_max=256; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub set: Vec<(String, String)>,
    /// Print the effective settings and end
    #[arg(long)]
    pub print_config: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as section.key=value")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl ServeArgs {
    /// What these arguments and the environment say.
    #[must_use]
    pub fn sources(&self) -> Sources {
        let mut flags: Vec<_> =
            self.set.iter().map(|(key, value)| ("--set".to_owned(), key.clone(), value.clone())).collect();
        let mut named = |flag: &str, key: &str, value: Option<String>| {
            flags.extend(value.map(|value| (flag.to_owned(), key.to_owned(), value)));
        };
        named("--http", "http.listen", self.http.clone());
        named("--admin", "admin.listen", self.admin.clone());
        named("--data", "data.dir", self.data.as_ref().map(|dir| dir.to_string_lossy().into_owned()));
        Sources::of_process(self.config.clone(), flags)
    }

    /// The settings; faults are printed and become the exit code.
    pub fn settings(&self) -> Result<Config, ExitCode> {
        Config::load(&self.sources()).map_err(|errors| {
            out::fault(&errors.to_string());
            ExitCode::from(EXIT_USAGE)
        })
    }
}

/// Prints the settings.
pub(super) fn show(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    out::line(config.to_toml());
    out::json(json, &config.to_json())?;
    Ok(ExitCode::SUCCESS)
}

/// Serves what the data directory holds.
pub(super) fn serve(args: &ServeArgs, json: bool) -> ExitCode {
    let ready = announcement(json, None);
    start(args, json, |config, lifecycle| async move {
        // Before anything is made or bound: a wrong directory is left as it is.
        app::find_model(&config)?;
        demo::expect_whole(&config)?;
        app::serve(config, lifecycle, async |_: &Config, _: &Stores| Ok(()), ready).await
    })
}

/// Makes the demo world where there is none, and serves it.
pub(super) fn demo(args: &ServeArgs, json: bool) -> ExitCode {
    let ready = announcement(json, Some(demo::user_id(1)));
    let prepare = async |config: &Config, stores: &Stores| demo::prepare(config, stores, SystemClock.seconds()).await;
    start(args, json, |mut config, lifecycle| {
        demo::fill_rates(&mut config);
        app::serve(config, lifecycle, prepare, ready)
    })
}

/// Prints what a server tells its user, once it is ready. Time counts from now.
fn announcement(json: bool, user: Option<String>) -> impl FnOnce(&App, Bound) {
    let began = Instant::now();
    move |_, bound| {
        let start_seconds = began.elapsed().as_secs_f64();
        Ready { http: bound.http, admin: bound.admin, user, start_seconds }.announce(json);
    }
}

/// Runs a server on these arguments: settings, logs, runtime, signals, drain. Nothing is bound if a setting is wrong.
pub fn start<F, App>(args: &ServeArgs, json: bool, app: F) -> ExitCode
where
    F: FnOnce(Config, Lifecycle) -> App,
    App: Future<Output = anyhow::Result<()>>,
{
    let config = match args.settings() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let result = if args.print_config {
        show(&config, json)
    } else {
        runtime::init_logs(&config.log).and_then(|()| runtime::run(config, app))
    };
    result.unwrap_or_else(|error| {
        out::fault(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}

/// What a server that is ready tells its user.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    /// Public port.
    pub http: SocketAddr,
    /// Admin port.
    pub admin: SocketAddr,
    /// A user with a history, to try things with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Time from start to ready.
    pub start_seconds: f64,
}

impl Ready {
    /// Prints addresses and two requests to try; with `json` also one JSON line.
    pub fn announce(&self, json: bool) {
        let Self { http, admin, start_seconds, .. } = self;
        let user = self.user.as_deref().unwrap_or("anyone");
        out::line(format!("Longbow is ready after {start_seconds:.1} s."));
        out::line(format!("  exchanges and feeds  http://{http}"));
        out::line(format!("  operators            http://{admin}  (/readyz, /metrics, /config, /v1/plans)"));
        out::line("Try:");
        out::line(format!(
            "  curl -s http://{http}/v1/rank -H 'content-type: application/json' -d '{{\"user\":\"{user}\",\"k\":5}}'"
        ));
        out::line(format!(
            "  curl -s http://{http}/openrtb2/bid -H 'content-type: application/json' -d '{{\"id\":\"1\",\"imp\":[{{\"id\":\"1\",\
             \"banner\":{{\"w\":300,\"h\":250}},\"bidfloor\":0.01}}],\"site\":{{\"domain\":\"news.example\"}},\
             \"user\":{{\"id\":\"{user}\"}},\"at\":1,\"tmax\":200}}'"
        ));
        // A value that cannot be serialised does not exist here.
        let _ = out::json(json, self);
    }
}

//! From settings to evidence: one reading of a live deployment, which leaves nothing behind on any way out.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::progress::Bar;
use crate::celery::message::Keep;
use crate::celery::task_id;
use crate::collect::cleanup::Cleanup;
use crate::collect::{Plan, Progress, Question, RabbitTarget, Target, collect, near};
use crate::config::deployments::{Deployment, resolve_all};
use crate::config::file::File;
use crate::config::flags::ConnectionArgs;
use crate::config::settings::{self, Settings};
use crate::config::url::Broker;
use crate::config::url::amqp::ManagementServer;
use crate::evidence::Evidence;

/// How long the removal of a reply address may take at most.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(3);
/// And so long in any case, however near the deadline is.
const LEAST_CLEANUP: Duration = Duration::from_secs(1);

/// The user ended the reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted{}", if *clean { "; nothing was left behind" } else { "" })]
pub(super) struct Interrupted {
    signal: u8,
    /// The reply address was taken away, or there was none.
    clean: bool,
}

impl Interrupted {
    /// 128 and the signal's number, as shells have it.
    pub(super) fn exit_code(self) -> u8 {
        128 + self.signal
    }
}

/// A variable of the environment. What is not UTF-8 is kept as far as it is, so that it gets an error and is not
/// silently passed over.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// The settings of this run.
pub(super) fn settings(connection: &ConnectionArgs) -> anyhow::Result<Settings> {
    let here = std::env::current_dir().context("the current directory can't be read")?;
    let file = settings::find_file(connection, &variable, &here)?;
    Ok(settings::resolve(connection, &variable, file)?)
}

/// The settings file of this run, if there is one.
pub(super) fn file(connection: &ConnectionArgs) -> anyhow::Result<Option<File>> {
    let here = std::env::current_dir().context("the current directory can't be read")?;
    Ok(settings::find_file(connection, &variable, &here)?)
}

/// The settings of every deployment of this run.
pub(super) fn deployments(
    connection: &ConnectionArgs,
    file: Option<File>,
) -> anyhow::Result<Vec<Deployment>> {
    Ok(resolve_all(connection, &variable, file)?)
}

/// The settings that matter where a snapshot takes the place of a broker.
pub(super) fn offline_settings(connection: &ConnectionArgs) -> anyhow::Result<Settings> {
    let here = std::env::current_dir().context("the current directory can't be read")?;
    let file = settings::find_file(connection, &variable, &here)?;
    Ok(settings::resolve_offline(connection, &variable, file)?)
}

/// Reads the deployment that the settings name.
pub(super) fn read(settings: &Settings, question: Question) -> anyhow::Result<Evidence> {
    let plan = plan(settings, question)?;
    let runtime = runtime()?;
    let late = |evidence: &Evidence| !evidence.all_workers_answered();
    let read = runtime.block_on(cleaned_up(
        plan.deadline(),
        async |cleanup, progress| collect(&plan, cleanup, progress).await,
        late,
    ));
    // A name that is still looked up would be waited for.
    runtime.shutdown_background();
    read
}

/// Ids in reach that may be meant by these, which nothing knows. Nothing is looked for where that would take long, or
/// where a worker would be waited for again.
pub(super) fn near(
    settings: &Settings,
    evidence: &Evidence,
    unknown: &[String],
) -> anyhow::Result<near::Ids> {
    let is_meant = |id: &str| unknown.iter().any(|by| task_id::is_meant(by, id));
    let lists = evidence.lists.seen().into_iter().flatten();
    let messages: u64 = lists.map(|list| list.length).sum();
    if evidence.broker.server.seen().is_none() || messages > near::MOST_MESSAGES {
        return Ok(near::in_evidence(evidence, &is_meant));
    }
    let mut plan = plan(settings, Question::Ids(Vec::new()))?;
    plan.ask_workers &= evidence.all_workers_answered();
    let runtime = runtime()?;
    let found = runtime.block_on(cleaned_up(
        Some(near::PATIENCE),
        async |cleanup, progress| near::ids(&plan, cleanup, progress, &is_meant).await,
        |_| false,
    ));
    runtime.shutdown_background();
    found
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime can't be started")
}

fn plan(settings: &Settings, question: Question) -> anyhow::Result<Plan> {
    let broker = settings.broker.as_ref().context("no broker given")?;
    let target = match &broker.value {
        Broker::Redis(server) => Target::Redis(server.clone()),
        Broker::Amqp(servers) => Target::RabbitMq(Box::new(RabbitTarget {
            servers: servers.clone(),
            management: settings
                .management
                .clone()
                .unwrap_or_else(|| ManagementServer::guessed(&servers.first)),
            peek: settings.peek,
        })),
    };
    Ok(Plan {
        broker: target,
        broker_url: broker.masked.clone(),
        result_backend: settings
            .result_backend
            .as_ref()
            .map(|given| given.value.clone()),
        result_backend_url: settings
            .result_backend
            .as_ref()
            .map(|given| given.masked.clone()),
        question,
        key_prefix: settings.key_prefix.clone(),
        result_key_prefix: settings.result_key_prefix.clone(),
        queues: settings.queues.clone(),
        timeout: settings.timeout,
        ask_workers: !settings.no_workers,
        visibility_timeout: settings.visibility_timeout,
        keep: if settings.show_args {
            Keep::Args
        } else {
            Keep::Envelope
        },
    })
}

/// Reads, and takes the reply address away again on every way out. `is_late` tells whether a worker may answer yet.
async fn cleaned_up<T>(
    deadline: Option<Duration>,
    read: impl AsyncFnOnce(&Cleanup, Progress<'_>) -> T,
    is_late: impl Fn(&T) -> bool,
) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt()).context("signals can't be received")?;
    let mut terminate = signal(SignalKind::terminate()).context("signals can't be received")?;
    let started = Instant::now();
    let cleanup = Cleanup::default();
    let bar = Bar::default();
    let progress = |what: &str, done: u64, of: u64| bar.show(what, done, of);
    let read = tokio::select! {
        done = read(&cleanup, &progress) => Ok(done),
        _ = interrupt.recv() => Err(2),
        _ = terminate.recv() => Err(15),
    };
    bar.clear();
    // A worker that has not answered may be about to.
    let late = read.as_ref().map_or(true, is_late);
    let patience = deadline.map_or(CLEANUP_TIMEOUT, |all| {
        let left = all.saturating_sub(started.elapsed());
        left.clamp(LEAST_CLEANUP, CLEANUP_TIMEOUT)
    });
    let leftover = match tokio::time::timeout(patience, cleanup.run(late)).await {
        Ok(Ok(())) => None,
        Ok(Err(leftover)) => Some(leftover.to_string()),
        Err(_) => Some("the reply address could not be removed: the broker fell silent".to_owned()),
    };
    let clean = leftover.is_none();
    if let Some(leftover) = leftover {
        // Where standard error is closed there is nobody left to tell.
        let _ = writeln!(io::stderr(), "warning: {leftover}");
    }
    Ok(read.map_err(|signal| Interrupted { signal, clean })?)
}

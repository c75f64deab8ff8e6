//! One set of services: started, stopped, asked and broken on purpose.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use tokio::process::Child;

use crate::endpoints::{self, Endpoints};
use crate::install::Installer;
use crate::process::{Launch, ProcessId, end_of, log_tail};
use crate::progress::{Progress, Quiet, track};
use crate::secrets::{self, Secrets};
use crate::services::{Service, Site, clickhouse, kafka, mysql};
use crate::settings::Settings;
use crate::state::{Layout, Record};
use crate::{ports, versions};

/// A service that hasn't answered by then won't: each needs 1 to 5 s on two cores.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long one answer may take while a service is starting, and when its status is asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How often a starting service is asked. A refused connection costs next to nothing.
const POLL: Duration = Duration::from_millis(50);
/// How often a start is tried when someone else takes the port that was free a moment ago.
const PORT_ATTEMPTS: usize = 3;
/// The name under which Kafka's second port is remembered.
const CONTROLLER: &str = "kafka-controller";

/// One set of services and its state folder.
#[derive(Debug)]
pub struct Stack {
    settings: Settings,
    layout: OnceLock<Layout>,
    installer: Installer,
}

/// What is known of one service.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceStatus {
    /// The service.
    pub name: Service,
    /// Its process; none if it isn't running, or runs elsewhere.
    pub pid: Option<u32>,
    /// Its port on this machine.
    pub port: Option<u16>,
    /// Its address, without user and password.
    pub url: Option<String>,
    /// Its log file.
    pub log: PathBuf,
    /// Whether a real query was just answered.
    pub ready: bool,
}

/// What a reset took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Services that were running.
    pub stopped: usize,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Stack {
    /// A stack; nothing is started or written yet.
    pub fn new(settings: Settings) -> Self {
        let installer = Installer::new(&settings);
        Self { settings, layout: OnceLock::new(), installer }
    }

    /// Its state folder.
    pub fn state(&self) -> &Path {
        &self.settings.state
    }

    /// What finds and installs tools for this stack.
    pub fn installer(&self) -> &Installer {
        &self.installer
    }

    /// Starts what isn't running, side by side, and returns when each service has answered a query.
    ///
    /// What did start stays up when another one fails, so that the next `up` has less to do.
    pub async fn up(&self, progress: &(dyn Progress + Sync)) -> anyhow::Result<Endpoints> {
        self.layout()?.create()?;
        let (mysql, kafka, clickhouse) = tokio::join!(
            self.bring_up(Service::Mysql, progress),
            self.bring_up(Service::Kafka, progress),
            self.bring_up(Service::Clickhouse, progress),
        );
        let failures: Vec<String> = [mysql, kafka, clickhouse]
            .into_iter()
            .filter_map(|r| r.err().map(|e| format!("{e:#}")))
            .collect();
        anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
        self.endpoints()
    }

    /// Starts one service if it isn't running; returns when it has answered a query.
    pub async fn start(&self, service: Service) -> anyhow::Result<()> {
        self.layout()?.create()?;
        self.bring_up(service, &Quiet).await
    }

    /// Stops all services of this stack; says which were running. Data and logs stay.
    pub async fn down(&self) -> anyhow::Result<Vec<Service>> {
        let (mysql, kafka, clickhouse) = tokio::join!(
            self.stop(Service::Mysql),
            self.stop(Service::Kafka),
            self.stop(Service::Clickhouse)
        );
        let mut stopped = Vec::new();
        for (service, was_running) in Service::ALL.into_iter().zip([mysql?, kafka?, clickhouse?]) {
            if was_running {
                stopped.push(service);
            }
        }
        Ok(stopped)
    }

    /// Stops one service as its operator would (SIGTERM); false if it wasn't running.
    pub async fn stop(&self, service: Service) -> anyhow::Result<bool> {
        let layout = self.layout()?;
        if !layout.run().exists() {
            return Ok(false);
        }
        let _lock = layout.lock_service(service, &Quiet).await?;
        let Some(Record::Own { process, .. }) = layout.load_record(service)? else {
            layout.drop_record(service)?;
            return Ok(false);
        };
        let was_running = process.is_alive();
        if !process.stop(service.grace()).await? {
            tracing::warn!(%service, pid = process.pid, "did not end by itself and was killed");
        }
        layout.drop_record(service)?;
        Ok(was_running)
    }

    /// SIGKILL, as a fault: the data folder is left as it is. [`Self::start`] brings the service back on the
    /// same port. An error if it wasn't running.
    pub async fn kill(&self, service: Service) -> anyhow::Result<()> {
        let layout = self.layout()?;
        let _lock = layout.lock_service(service, &Quiet).await?;
        match layout.load_record(service)? {
            Some(Record::Own { process, .. }) if process.is_alive() => {
                process.destroy().await?;
                // A start that follows shall not take it for a crash.
                layout.drop_record(service)
            }
            _ => anyhow::bail!("{service} is no running process of this stack, so it can't be killed"),
        }
    }

    /// Stops everything and removes data, logs, published modules and passwords. Installed tools stay.
    pub async fn reset(&self) -> anyhow::Result<Removed> {
        let mut removed = Removed { stopped: self.down().await?.len(), ..Removed::default() };
        for path in self.layout()?.disposable() {
            removed.count(&path)?;
            let result =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            match result {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("could not remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(removed)
    }

    /// Asks each service.
    pub async fn status(&self) -> anyhow::Result<Vec<ServiceStatus>> {
        let (mysql, kafka, clickhouse) = tokio::join!(
            self.status_of(Service::Mysql),
            self.status_of(Service::Kafka),
            self.status_of(Service::Clickhouse)
        );
        Ok(vec![mysql?, kafka?, clickhouse?])
    }

    /// Where the services answer. An error if one of them isn't up.
    pub fn endpoints(&self) -> anyhow::Result<Endpoints> {
        let down = |service| format!("{service} is not up: run `cargo xtask stack up`");
        Ok(Endpoints {
            mysql: self.mysql()?.with_context(|| down(Service::Mysql))?,
            kafka: self.kafka()?.with_context(|| down(Service::Kafka))?,
            clickhouse: self.clickhouse()?.with_context(|| down(Service::Clickhouse))?,
        })
    }

    /// Where the published transforms of this stack lie.
    pub fn registry(&self) -> anyhow::Result<PathBuf> {
        Ok(self.layout()?.registry())
    }

    /// What the functions and the operator's command read: the endpoints, the registry and its keys. Holds passwords.
    pub fn env(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut env = self.endpoints()?.env();
        let key = self.layout()?.transform_key();
        for (name, value) in [
            ("OUTFLOW_TRANSFORM_REGISTRY", format!("file://{}", self.registry()?.display())),
            ("OUTFLOW_TRANSFORM_TRUSTED_KEYS", secrets::transform_key(&key)?),
            ("OUTFLOW_TRANSFORM_SIGNING_KEY", key.display().to_string()),
        ] {
            env.push((name.to_owned(), value));
        }
        Ok(env)
    }

    /// The log of a service.
    pub fn log(&self, service: Service) -> anyhow::Result<PathBuf> {
        Ok(self.layout()?.log(service))
    }

    /// The last lines of a service's log.
    pub fn log_tail(&self, service: Service, lines: usize) -> anyhow::Result<Vec<String>> {
        Ok(log_tail(&self.layout()?.log(service), lines))
    }

    fn layout(&self) -> anyhow::Result<&Layout> {
        if self.layout.get().is_none() {
            let layout = Layout::new(&self.settings.state)?;
            // Losing the race to another thread leaves the same layout there.
            let _ = self.layout.set(layout);
        }
        self.layout.get().context("the layout was just set")
    }

    async fn bring_up(&self, service: Service, progress: &(dyn Progress + Sync)) -> anyhow::Result<()> {
        let layout = self.layout()?;
        let _lock = layout.lock_service(service, progress).await?;
        if let Some(Record::Own { process, .. }) = layout.load_record(service)? {
            if process.is_alive() {
                return self.wait_until_ready(service, &process, None).await;
            }
            let log = end_of(&layout.log(service));
            progress.note(&format!("{service} (pid {}) was no longer running; {log}", process.pid));
        }
        layout.drop_record(service)?;
        if self.answers_elsewhere(service, progress).await? {
            return layout.store_record(service, &Record::Elsewhere);
        }
        match service {
            Service::Mysql => {
                let mysqld = self.installer.mysql(progress).await?;
                self.start_own(service, progress, async |site| mysql::prepare(site, &mysqld).await).await
            }
            Service::Kafka => {
                let kafka = self.installer.kafka(progress).await?;
                self.start_own(service, progress, async |site| kafka::prepare(site, &kafka).await).await
            }
            Service::Clickhouse => {
                let clickhouse = self.installer.clickhouse(progress).await?;
                self.start_own(service, progress, async |site| clickhouse::prepare(site, &clickhouse).await)
                    .await
            }
        }
    }

    async fn start_own(
        &self,
        service: Service,
        progress: &(dyn Progress + Sync),
        prepare: impl AsyncFn(&Site<'_>) -> anyhow::Result<Launch>,
    ) -> anyhow::Result<()> {
        let layout = self.layout()?;
        track(progress, &format!("starting {service}"), async {
            for attempt in 1.. {
                let (secrets, port, internal_port) = self.allot(service, progress).await?;
                let site = Site { layout, secrets: &secrets, port, internal_port };
                let launch = prepare(&site).await?;
                let (child, process) = launch.spawn(&layout.log(service))?;
                layout.store_record(service, &Record::Own { process: process.clone(), port })?;
                let Err(error) = self.wait_until_ready(service, &process, Some(child)).await else { break };
                layout.drop_record(service)?;
                // Between the look at the port and the start someone else may have taken it.
                let taken = !ports::is_free(port) || (internal_port != 0 && !ports::is_free(internal_port));
                if !taken || attempt == PORT_ATTEMPTS {
                    return Err(error);
                }
            }
            Ok(())
        })
        .await
    }

    /// Secrets and ports for one start. Two services of one stack never get the same port, whichever
    /// process asks.
    async fn allot(
        &self,
        service: Service,
        progress: &(dyn Progress + Sync),
    ) -> anyhow::Result<(Secrets, u16, u16)> {
        let layout = self.layout()?;
        let _lock = layout.lock_files(progress).await?;
        let secrets = Secrets::load_or_generate(&layout.secrets())?;
        let mut remembered = layout.load_ports()?;
        let own = |name: &str| name == service.name() || (service == Service::Kafka && name == CONTROLLER);
        let mut taken: BTreeSet<u16> =
            remembered.iter().filter(|(name, _)| !own(name)).map(|(_, port)| *port).collect();
        let usual = service.usual_port(&self.settings.ports);
        let port = ports::pick(remembered.get(service.name()).copied(), usual, &taken)?;
        remembered.insert(service.name().to_owned(), port);
        let mut internal_port = 0;
        if service == Service::Kafka {
            taken.insert(port);
            let usual = self.settings.ports.kafka_controller;
            internal_port = ports::pick(remembered.get(CONTROLLER).copied(), usual, &taken)?;
            remembered.insert(CONTROLLER.to_owned(), internal_port);
        }
        layout.store_ports(&remembered)?;
        if usual != 0 && port != usual {
            let why = if ports::is_free(usual) { "as before" } else { &format!("{usual} is taken") };
            progress.note(&format!("{service} listens on {port}: {why}"));
        }
        Ok((secrets, port, internal_port))
    }

    /// Waits for an answered query. A process that ends, or never answers, is an error with the end of its log.
    async fn wait_until_ready(
        &self,
        service: Service,
        process: &ProcessId,
        mut child: Option<Child>,
    ) -> anyhow::Result<()> {
        let log = self.layout()?.log(service);
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let ended = match &mut child {
                Some(child) => child.try_wait()?.map(|status| status.to_string()),
                None => (!process.is_alive()).then(|| "it is gone".to_owned()),
            };
            if let Some(how) = ended {
                anyhow::bail!("{service} ended while it was starting ({how}); {}", end_of(&log));
            }
            let Err(error) = self.ask(service).await else { return Ok(()) };
            if Instant::now() >= deadline {
                process.destroy().await?;
                return Err(error).with_context(|| {
                    format!(
                        "{service} did not answer within {} s and was stopped; {}",
                        READY_WITHIN.as_secs(),
                        end_of(&log)
                    )
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Has this stack's service answer a query.
    async fn ask(&self, service: Service) -> anyhow::Result<()> {
        let answer = async {
            match service {
                Service::Mysql => mysql::probe(&self.mysql()?.context("it is not up")?.url).await,
                Service::Kafka => kafka::probe(&self.kafka()?.context("it is not up")?.brokers).await,
                Service::Clickhouse => clickhouse::probe(&self.clickhouse()?.context("it is not up")?).await,
            }
        };
        tokio::time::timeout(ANSWER_WITHIN, answer)
            .await
            .with_context(|| format!("no answer within {} s", ANSWER_WITHIN.as_secs()))?
    }

    /// Whether the configuration points at a service that answers, and that isn't ours.
    async fn answers_elsewhere(
        &self,
        service: Service,
        progress: &(dyn Progress + Sync),
    ) -> anyhow::Result<bool> {
        let Some(address) = self.configured(service) else { return Ok(false) };
        // The variables may come from this very stack: then its own process is meant, and starts again.
        let own = self.layout()?.load_ports()?.get(service.name()).copied();
        let shown = endpoints::shown(&address);
        let answer = async {
            match service {
                Service::Mysql => {
                    let mysql = endpoints::Mysql::existing(&self.settings.existing).context("not set")?;
                    mysql::probe(&mysql.url).await
                }
                Service::Kafka => kafka::probe(&address).await,
                Service::Clickhouse => {
                    let existing = endpoints::Clickhouse::existing(&self.settings.existing);
                    clickhouse::probe(&existing.context("not set")?).await
                }
            }
        };
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(())) => {
                progress.note(&format!("{service}: using the one that runs at {shown}"));
                Ok(true)
            }
            _ if own.is_some() && endpoints::local_port(&address)? == own => Ok(false),
            Ok(Err(error)) => {
                progress.note(&format!("{service} at {shown} can't be used ({error:#}): starting one here"));
                Ok(false)
            }
            Err(_) => {
                progress.note(&format!("{service} at {shown} does not answer: starting one here"));
                Ok(false)
            }
        }
    }

    /// The address that the configuration names. It may hold a password.
    fn configured(&self, service: Service) -> Option<String> {
        use secrecy::ExposeSecret;
        let existing = &self.settings.existing;
        match service {
            Service::Mysql => existing.database_url.as_ref().map(|url| url.expose_secret().to_owned()),
            Service::Kafka => existing.kafka_brokers.clone(),
            Service::Clickhouse => existing.clickhouse_url.clone(),
        }
    }

    /// Where this stack's MySQL answers; none if it isn't up.
    pub fn mysql(&self) -> anyhow::Result<Option<endpoints::Mysql>> {
        match self.layout()?.load_record(Service::Mysql)? {
            Some(Record::Own { port, .. }) => Ok(Some(endpoints::Mysql::own(port, &self.secrets()?))),
            Some(Record::Elsewhere) => Ok(endpoints::Mysql::existing(&self.settings.existing)),
            None => Ok(None),
        }
    }

    /// Where this stack's Kafka answers; none if it isn't up.
    pub fn kafka(&self) -> anyhow::Result<Option<endpoints::Kafka>> {
        match self.layout()?.load_record(Service::Kafka)? {
            Some(Record::Own { port, .. }) => Ok(Some(endpoints::Kafka::own(port))),
            Some(Record::Elsewhere) => Ok(endpoints::Kafka::existing(&self.settings.existing)),
            None => Ok(None),
        }
    }

    /// Where this stack's ClickHouse answers; none if it isn't up.
    pub fn clickhouse(&self) -> anyhow::Result<Option<endpoints::Clickhouse>> {
        match self.layout()?.load_record(Service::Clickhouse)? {
            Some(Record::Own { port, .. }) => Ok(Some(endpoints::Clickhouse::own(port, &self.secrets()?))),
            Some(Record::Elsewhere) => Ok(endpoints::Clickhouse::existing(&self.settings.existing)),
            None => Ok(None),
        }
    }

    fn secrets(&self) -> anyhow::Result<Secrets> {
        let path = self.layout()?.secrets();
        Secrets::load(&path)?
            .with_context(|| format!("{} is gone: run `cargo xtask stack down`, then `up`", path.display()))
    }

    async fn status_of(&self, service: Service) -> anyhow::Result<ServiceStatus> {
        let layout = self.layout()?;
        let record = layout.load_record(service)?;
        let (pid, port, url) = match &record {
            Some(Record::Own { process, port }) => {
                let pid = process.is_alive().then_some(process.pid);
                (pid, Some(*port), Some(own_address(service, *port)))
            }
            Some(Record::Elsewhere) => {
                let address = self.configured(service);
                let port = address.as_deref().map(endpoints::local_port).transpose()?.flatten();
                (None, port, address.as_deref().map(endpoints::shown))
            }
            None => (None, None, None),
        };
        let running = pid.is_some() || record == Some(Record::Elsewhere);
        let ready = running && self.ask(service).await.is_ok();
        Ok(ServiceStatus { name: service, pid, port, url, log: layout.log(service), ready })
    }
}

impl Removed {
    fn count(&mut self, path: &Path) -> anyhow::Result<()> {
        let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
        if meta.is_dir() {
            for entry in std::fs::read_dir(path)? {
                self.count(&entry?.path())?;
            }
        } else {
            self.files += 1;
            self.bytes += meta.len();
        }
        Ok(())
    }
}

fn own_address(service: Service, port: u16) -> String {
    let host = versions::HOST;
    match service {
        Service::Mysql => format!("mysql://{host}:{port}/{}", versions::MYSQL_DATABASE),
        Service::Kafka => format!("{host}:{port}"),
        Service::Clickhouse => format!("http://{host}:{port}"),
    }
}

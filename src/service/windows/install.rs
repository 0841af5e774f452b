//! The service seen from outside: installing, starting, asking and removing it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceConfig, ServiceErrorControl,
    ServiceExitCode, ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo,
    ServiceStartType, ServiceState, ServiceStatus, ServiceType, UserEventCode,
};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

use super::{NAME, RELOAD, event_log};

const DESCRIPTION: &str = "Reverse proxy and TLS gateway";

/// Restarts after a failure: the first soon, later ones less often.
const RESTARTS: [Duration; 3] =
    [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(60)];

/// Time without failures after which the first delay counts again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Time for the drain when the system shuts down. Windows grants 10 s by itself since version 1703,
/// and 3 min before.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(180);

/// Pause between two looks at a state; the system has no event for it that all versions know.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The least time that a start or a stop gets, whatever the service itself says.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the service cannot be managed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The service control manager refused.
    #[error("cannot {action} the service {NAME}{hint}", hint = hint(source))]
    Manager {
        /// The verb.
        action: &'static str,
        /// What it said.
        source: windows_service::Error,
    },
    /// The registry refused.
    #[error("cannot change the event log's sources in the registry")]
    EventLog(#[source] io::Error),
    /// The service is in another state than the one asked for.
    #[error("the service {NAME} did not {action}: it is {state}{exit}")]
    State {
        /// The verb.
        action: &'static str,
        /// Its state.
        state: &'static str,
        /// With which status it ended, if it did.
        exit: String,
    },
}

/// ERROR_ACCESS_DENIED, ERROR_SERVICE_DOES_NOT_EXIST, ERROR_SERVICE_EXISTS, ERROR_SERVICE_ALREADY_RUNNING,
/// ERROR_SERVICE_NOT_ACTIVE.
fn hint(error: &windows_service::Error) -> &'static str {
    let windows_service::Error::Winapi(error) = error else { return "" };
    match error.raw_os_error() {
        Some(5) => ": run this as administrator",
        Some(1060) => ": it is not installed",
        Some(1073) => ": it is installed already",
        Some(1056) => ": it runs already",
        Some(1062) => ": it does not run",
        _ => "",
    }
}

fn because(action: &'static str) -> impl Fn(windows_service::Error) -> Error {
    move |source| Error::Manager { action, source }
}

/// What the service is to run, and as whom.
#[derive(Debug)]
pub struct Command {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The account; `None` is LocalSystem.
    pub account: Option<OsString>,
}

/// Installs the service: started with the system, and again after failures.
///
/// # Errors
/// [`Error`]; what was done until then is undone.
pub fn install(command: Command) -> Result<(), Error> {
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager =
        ServiceManager::local_computer(None::<&OsStr>, access).map_err(because("install"))?;
    let info = ServiceInfo {
        name: NAME.into(),
        display_name: NAME.into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: command.program,
        launch_arguments: command.arguments,
        dependencies: Vec::new(),
        account_name: command.account,
        account_password: None,
    };
    // Restart actions need the right to start.
    let access = ServiceAccess::CHANGE_CONFIG | ServiceAccess::START | ServiceAccess::DELETE;
    let service = manager.create_service(&info, access).map_err(because("install"))?;
    let configured = configure(&service).map_err(because("install"));
    let outcome = configured.and_then(|()| event_log::add_source().map_err(Error::EventLog));
    if outcome.is_err() {
        // The first error is the one to tell.
        let _ = service.delete();
    }
    outcome
}

fn configure(service: &Service) -> windows_service::Result<()> {
    service.set_description(DESCRIPTION)?;
    let restart = |delay| ServiceAction { action_type: ServiceActionType::Restart, delay };
    service.update_failure_actions(ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(FORGIVEN_AFTER),
        reboot_msg: None,
        command: None,
        actions: Some(RESTARTS.map(restart).to_vec()),
    })?;
    known(service.set_failure_actions_on_non_crash_failures(true))?;
    service.set_preshutdown_timeout(SHUTDOWN_LIMIT)
}

/// `None` where the system does not know the setting at all (ERROR_INVALID_LEVEL): every Windows
/// since Vista knows the ones used here, Wine does not.
fn known<T>(outcome: windows_service::Result<T>) -> windows_service::Result<Option<T>> {
    match outcome {
        Err(windows_service::Error::Winapi(error)) if error.raw_os_error() == Some(124) => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// Stops the service and removes it. Configuration, certificates and logs stay.
///
/// # Errors
/// [`Error`].
pub fn uninstall() -> Result<(), Error> {
    let service = open(
        "uninstall",
        ServiceAccess::STOP | ServiceAccess::QUERY_STATUS | ServiceAccess::DELETE,
    )?;
    let status = service.query_status().map_err(because("uninstall"))?;
    if status.current_state != ServiceState::Stopped {
        stop_and_wait(&service)?;
    }
    service.delete().map_err(because("uninstall"))?;
    event_log::remove_source().map_err(Error::EventLog)
}

/// Starts the service and waits until it serves.
///
/// # Errors
/// [`Error`].
pub fn start() -> Result<(), Error> {
    let service = open("start", ServiceAccess::START | ServiceAccess::QUERY_STATUS)?;
    service.start::<&OsStr>(&[]).map_err(because("start"))?;
    wait_for(&service, "start", ServiceState::Running, ServiceState::StartPending)
}

/// Stops the service and waits until what is in flight is done.
///
/// # Errors
/// [`Error`].
pub fn stop() -> Result<(), Error> {
    stop_and_wait(&open("stop", ServiceAccess::STOP | ServiceAccess::QUERY_STATUS)?)
}

/// One that is stopping already takes no second request, and is waited for as well.
fn stop_and_wait(service: &Service) -> Result<(), Error> {
    let status = service.query_status().map_err(because("stop"))?;
    if status.current_state != ServiceState::StopPending {
        service.stop().map_err(because("stop"))?;
    }
    wait_for(service, "stop", ServiceState::Stopped, ServiceState::StopPending)
}

/// Has the running service read its configuration again. How that went is in its log.
///
/// # Errors
/// [`Error`].
pub fn reload() -> Result<(), Error> {
    let service = open("reload", ServiceAccess::USER_DEFINED_CONTROL)?;
    let code = UserEventCode::from_raw(RELOAD)
        .map_err(|error| windows_service::Error::ParseValue("control code", error));
    code.and_then(|code| service.notify(code)).map(|_| ()).map_err(because("reload"))
}

fn open(action: &'static str, access: ServiceAccess) -> Result<Service, Error> {
    ServiceManager::local_computer(None::<&OsStr>, ServiceManagerAccess::CONNECT)
        .and_then(|manager| manager.open_service(NAME, access))
        .map_err(because(action))
}

/// Waits while the service is `passing` and the time it says it needs has not run out. A stop may
/// find it running for a moment, until it has taken notice.
fn wait_for(
    service: &Service,
    action: &'static str,
    wanted: ServiceState,
    passing: ServiceState,
) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        let status = service.query_status().map_err(because(action))?;
        let limit = PATIENCE.max(status.wait_hint);
        let is_under_way = status.current_state == passing
            || (wanted == ServiceState::Stopped && status.current_state == ServiceState::Running);
        if status.current_state == wanted {
            return Ok(());
        }
        if !is_under_way || began.elapsed() > limit {
            let state = word(status.current_state);
            return Err(Error::State { action, state, exit: exit(&status) });
        }
        sleep(LOOK_AGAIN);
    }
}

/// The service as the service control manager knows it.
#[derive(Debug)]
pub struct Report {
    status: ServiceStatus,
    config: ServiceConfig,
    failures: Option<ServiceFailureActions>,
    is_for_all_failures: Option<bool>,
}

/// Asks about the service.
///
/// # Errors
/// [`Error`].
pub fn status() -> Result<Report, Error> {
    let service = open("query", ServiceAccess::QUERY_STATUS | ServiceAccess::QUERY_CONFIG)?;
    let ask = || {
        Ok(Report {
            status: service.query_status()?,
            config: service.query_config()?,
            failures: known(service.get_failure_actions())?,
            is_for_all_failures: known(service.get_failure_actions_on_non_crash_failures())?,
        })
    };
    ask().map_err(because("query"))
}

impl Report {
    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.status.current_state == ServiceState::Running
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = word(self.status.current_state);
        writeln!(f, "state     {state}{}", exit(&self.status))?;
        if let Some(process) = self.status.process_id.filter(|process| *process != 0) {
            writeln!(f, "process   {process}")?;
        }
        let start = match self.config.start_type {
            ServiceStartType::AutoStart => "automatic",
            ServiceStartType::OnDemand => "manual",
            ServiceStartType::Disabled => "disabled",
            _ => "with the system",
        };
        writeln!(f, "start     {start}")?;
        let account = self.config.account_name.as_deref().unwrap_or(OsStr::new("LocalSystem"));
        writeln!(f, "account   {}", account.display())?;
        writeln!(f, "command   {}", self.config.executable_path.display())?;
        match &self.failures {
            Some(failures) => self.write_recovery(failures, f),
            None => Ok(()),
        }
    }
}

impl Report {
    fn write_recovery(
        &self,
        failures: &ServiceFailureActions,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        let actions: Vec<String> = failures.actions.iter().flatten().map(spell).collect();
        let reset = match failures.reset_period {
            ServiceFailureResetPeriod::Never => "never reset".to_owned(),
            ServiceFailureResetPeriod::After(time) => format!("reset after {} s", time.as_secs()),
        };
        let scope = match self.is_for_all_failures {
            Some(true) => "; after any failure",
            Some(false) => "; after crashes only",
            None => "",
        };
        writeln!(f, "recovery  {}; {reset}{scope}", actions.join(", "))
    }
}

fn spell(action: &ServiceAction) -> String {
    let verb = match action.action_type {
        ServiceActionType::None => "nothing",
        ServiceActionType::Reboot => "reboot",
        ServiceActionType::Restart => "restart",
        ServiceActionType::RunCommand => "run a command",
    };
    format!("{verb} after {} s", action.delay.as_secs())
}

fn word(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Stopped => "stopped",
        ServiceState::StartPending => "starting",
        ServiceState::StopPending => "stopping",
        ServiceState::Running => "running",
        ServiceState::ContinuePending => "continuing",
        ServiceState::PausePending => "pausing",
        ServiceState::Paused => "paused",
    }
}

/// How a stopped service ended, if not well.
fn exit(status: &ServiceStatus) -> String {
    match status.exit_code {
        _ if status.current_state != ServiceState::Stopped => String::new(),
        // ERROR_SERVICE_NEVER_STARTED.
        ServiceExitCode::Win32(0 | 1077) => String::new(),
        ServiceExitCode::Win32(code) => format!(", with error {code}"),
        ServiceExitCode::ServiceSpecific(code) => format!(", with exit status {code}"),
    }
}

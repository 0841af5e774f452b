//! The service control manager of Windows: installing and asking for the service, and being it.

mod event_log;
mod install;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use windows_service::service::{
    ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{
    ServiceControlHandlerResult, ServiceStatusHandle, register,
};
use windows_service::{define_windows_service, service_dispatcher};

use super::{Kind, Manager, Requester};

pub use event_log::report_error;
pub use install::{Command, Error, Report, install, reload, start, status, stop, uninstall};

/// The service's name, also in the event log.
pub const NAME: &str = "Wardgate";

/// The control code that reloads, besides `SERVICE_CONTROL_PARAMCHANGE`. The first of those that
/// Microsoft leaves to services.
pub const RELOAD: u32 = 128;

/// What a start may take before the system may think that it hangs: certificates are made, and disks
/// are slow right after the boot.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What the process does as a service; returns its exit status.
pub type Program = Box<dyn FnOnce(Manager) -> u8 + Send>;

/// The system calls a function without context on a thread of its own, so that what it is to do has
/// to lie here.
static PROGRAM: Mutex<Option<Program>> = Mutex::new(None);

/// Runs `program` as the service, and returns when it has stopped.
///
/// # Errors
/// When the process was not started by the service control manager.
pub fn run(program: Program) -> windows_service::Result<()> {
    *PROGRAM.lock().unwrap_or_else(PoisonError::into_inner) = Some(program);
    service_dispatcher::start(NAME, service_main)
}

define_windows_service!(service_main, serve);

fn serve(_arguments: Vec<OsString>) {
    let program = PROGRAM.lock().unwrap_or_else(PoisonError::into_inner).take();
    let (requester, stops, reloads) = Requester::channel();
    let handle = match register(NAME, move |control| handle(control, &requester)) {
        Ok(handle) => handle,
        Err(error) => return report_error(&format!("cannot register the service: {error}")),
    };
    tell(handle, ServiceState::StartPending, START_LIMIT, ServiceExitCode::NO_ERROR);
    let manager = Manager { kind: Kind::Windows(Reporter { handle }), stops, reloads };
    let status = program.map_or(0, |program| program(manager));
    let exit_code = match status {
        0 => ServiceExitCode::NO_ERROR,
        // Anything but 0 sets the recovery actions in motion.
        status => ServiceExitCode::ServiceSpecific(status.into()),
    };
    tell(handle, ServiceState::Stopped, Duration::ZERO, exit_code);
}

fn handle(control: ServiceControl, requester: &Requester) -> ServiceControlHandlerResult {
    match control {
        ServiceControl::Interrogate => {}
        ServiceControl::Stop => requester.stop("service stop"),
        ServiceControl::Preshutdown => requester.stop("the system shuts down"),
        ServiceControl::ParamChange => requester.reload(),
        ServiceControl::UserEvent(code) if code.to_raw() == RELOAD => requester.reload(),
        _ => return ServiceControlHandlerResult::NotImplemented,
    }
    ServiceControlHandlerResult::NoError
}

/// The running service's way to the service control manager.
#[derive(Debug)]
pub(super) struct Reporter {
    handle: ServiceStatusHandle,
}

impl Reporter {
    pub(super) fn ready(&self) {
        tell(self.handle, ServiceState::Running, Duration::ZERO, ServiceExitCode::NO_ERROR);
    }

    pub(super) fn stopping(&self, limit: Duration) {
        tell(self.handle, ServiceState::StopPending, limit, ServiceExitCode::NO_ERROR);
    }
}

/// Tells the service control manager where the service stands, and for how long a step may last.
fn tell(
    handle: ServiceStatusHandle,
    current_state: ServiceState,
    wait_hint: Duration,
    exit_code: ServiceExitCode,
) {
    let controls_accepted = match current_state {
        ServiceState::Running => {
            ServiceControlAccept::STOP
                | ServiceControlAccept::PRESHUTDOWN
                | ServiceControlAccept::PARAM_CHANGE
        }
        // The system passes nothing on to a service that starts or stops.
        _ => ServiceControlAccept::empty(),
    };
    let is_pending =
        matches!(current_state, ServiceState::StartPending | ServiceState::StopPending);
    let status = ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state,
        controls_accepted,
        exit_code,
        checkpoint: u32::from(is_pending),
        // More than that is no number of milliseconds there.
        wait_hint: wait_hint.min(Duration::from_millis(u32::MAX.into())),
        process_id: None,
    };
    if let Err(error) = handle.set_service_status(status) {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot tell the service manager");
    }
}

/// Where standard output and standard error of the process go from now on. A service has neither.
///
/// # Errors
/// What the system says.
#[expect(unsafe_code, reason = "std cannot replace a standard handle")]
pub fn redirect(output: File, error: File) -> io::Result<()> {
    use std::os::windows::io::IntoRawHandle as _;
    use windows_sys::Win32::System::Console::{STD_ERROR_HANDLE, STD_OUTPUT_HANDLE, SetStdHandle};

    for (which, file) in [(STD_OUTPUT_HANDLE, output), (STD_ERROR_HANDLE, error)] {
        // SAFETY: the handle is open, and stays so: it is given away for the process's life.
        if unsafe { SetStdHandle(which, file.into_raw_handle().cast()) } == 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

//! Errors in the event log of Windows, where administrators look first.

use std::io;
use std::iter::once;
use std::ptr::{null, null_mut};

use windows_registry::LOCAL_MACHINE;
use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, RegisterEventSourceW, ReportEventW,
};

use super::NAME;

/// Where sources of the log "Application" are listed.
const SOURCES: &str = r"SYSTEM\CurrentControlSet\Services\EventLog\Application";

/// A library of the system whose messages 1 to 1000 are the text alone, so that we need not ship one.
const MESSAGES: &str = r"%SystemRoot%\System32\EventCreate.exe";

/// The message: any number of that library.
const EVENT: u32 = 1;

/// Most characters that one text of an event may have (ReportEventW).
const MOST_CHARACTERS: usize = 31_000;

/// Makes the source known, so that the viewer shows its texts as they are.
pub(super) fn add_source() -> io::Result<()> {
    let key = LOCAL_MACHINE.create(format!(r"{SOURCES}\{NAME}"))?;
    key.set_expand_string("EventMessageFile", MESSAGES)?;
    Ok(key.set_u32("TypesSupported", EVENTLOG_ERROR_TYPE.into())?)
}

pub(super) fn remove_source() -> io::Result<()> {
    Ok(LOCAL_MACHINE.create(SOURCES)?.remove_tree(NAME)?)
}

/// Writes an error into the log "Application". Where that cannot be done, nobody is left to tell.
#[expect(unsafe_code, reason = "the event log has no safe interface")]
pub fn report_error(text: &str) {
    let name = wide(NAME);
    let short: String = text.chars().take(MOST_CHARACTERS / 2).collect();
    let text = wide(&short);
    // SAFETY: the strings end with a zero and live longer than the calls; the handle is closed once.
    unsafe {
        let log = RegisterEventSourceW(null(), name.as_ptr());
        if log.is_null() {
            return;
        }
        let texts = [text.as_ptr()];
        ReportEventW(log, EVENTLOG_ERROR_TYPE, 0, EVENT, null_mut(), 1, 0, texts.as_ptr(), null());
        DeregisterEventSource(log);
    }
}

/// Zeros inside would end the text early.
fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().filter(|unit| *unit != 0).chain(once(0)).collect()
}

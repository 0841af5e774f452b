//! Where the system keeps what belongs to an installed gateway.

use std::path::PathBuf;

/// Where an installed gateway has its file: `/etc/wardgate`, on Windows `%ProgramData%\Wardgate`.
#[must_use]
pub fn system_directory() -> PathBuf {
    #[cfg(windows)]
    return program_data().join("Wardgate");
    #[cfg(not(windows))]
    PathBuf::from("/etc/wardgate")
}

/// As the system has it for everybody: environments differ, and that of a service under Wine has
/// another directory.
#[cfg(windows)]
fn program_data() -> PathBuf {
    use std::env::var_os;

    let stored = windows_registry::LOCAL_MACHINE.open(PROFILES);
    let Ok(stored) = stored.and_then(|key| key.get_string("ProgramData")) else {
        return var_os("ProgramData").unwrap_or_else(|| r"C:\ProgramData".into()).into();
    };
    let Some(inside) = stored.strip_prefix(r"%SystemDrive%\") else { return stored.into() };
    let mut path = PathBuf::from(var_os("SystemDrive").unwrap_or_else(|| "C:".into()));
    path.push(r"\");
    path.join(inside)
}

#[cfg(windows)]
const PROFILES: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion\ProfileList";

#[cfg(all(test, windows))]
mod tests {
    use super::*;

    #[test]
    fn it_is_where_the_environment_of_a_person_says() {
        let data = PathBuf::from(std::env::var_os("ProgramData").unwrap());
        assert_eq!(system_directory(), data.join("Wardgate"));
    }
}
